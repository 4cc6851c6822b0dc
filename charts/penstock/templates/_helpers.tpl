{{- define "penstock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "penstock.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "penstock.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "penstock.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ include "penstock.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "penstock.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "penstock.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "penstock.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "penstock.secret" -}}
{{- if .Values.bundled.enabled -}}
{{ include "penstock.fullname" . }}-bundled
{{- else -}}
{{ required "existingSecret is not set: name the Secret that holds DATABASE_URL, REDIS_URL, OBJECT_STORE_URL and PENSTOCK_ENCRYPTION_KEYS (or set bundled.enabled to try Penstock)" .Values.existingSecret }}
{{- end -}}
{{- end -}}

{{- define "penstock.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "penstock.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What every container of ours reads; migrations run before the ConfigMaps exist, and need the Secrets only. */}}
{{- define "penstock.secrets" -}}
- secretRef:
    name: {{ include "penstock.secret" . }}
{{- range .Values.extraSecrets }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end -}}

{{- define "penstock.environment" -}}
envFrom:
  {{- include "penstock.secrets" . | nindent 2 }}
  - configMapRef:
      name: {{ include "penstock.fullname" . }}-settings
{{- end -}}

{{- define "penstock.pipelineMount" -}}
volumeMounts:
  - name: pipelines
    mountPath: /etc/penstock/pipelines
    readOnly: true
{{- end -}}

{{- define "penstock.pipelineVolume" -}}
volumes:
  - name: pipelines
    projected:
      sources:
        - configMap:
            name: {{ include "penstock.fullname" . }}-pipelines
        {{- with .Values.existingPipelines }}
        - configMap:
            name: {{ . }}
        {{- end }}
{{- end -}}

{{/* Services read settings and definitions when they start: a change of either is a rollout. */}}
{{- define "penstock.checksums" -}}
checksum/settings: {{ include (print $.Template.BasePath "/configmaps.yaml") . | sha256sum }}
{{- end -}}

{{- define "penstock.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "penstock.selector" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "penstock.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
