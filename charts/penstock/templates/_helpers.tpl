{{- define "penstock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
Names of objects begin with this one. A CronJob's name may have 52 characters, a Service's 63 and no dot: 40 leave room
for the longest ending.
*/}}
{{- define "penstock.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $name = contains (include "penstock.name" .) .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name (include "penstock.name" .)) -}}
{{- end -}}
{{- $name = $name | trunc 40 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "a Service cannot be named after %q: set fullnameOverride to a name that begins with a letter and has a-z, 0-9 and - only" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* A StatefulSet's pods carry its name with a hash in a label: it may have 52 characters. */}}
{{- define "penstock.bundledName" -}}
{{- printf "%s-bundled" (include "penstock.fullname" . | trunc 35 | trimSuffix "-") -}}
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

{{/* Numbers of a values file are floats to Helm, which writes a million as 1e+06. Whole ones are written as such. */}}
{{- define "penstock.int" -}}
{{- int64 . -}}
{{- end -}}

{{/* A setting's text, of whatever type it was given. */}}
{{- define "penstock.text" -}}
{{- if kindIs "string" . -}}
{{ . }}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* A whole number, or a percentage. */}}
{{- define "penstock.intOrPercent" -}}
{{- if kindIs "string" . -}}
{{ . }}
{{- else -}}
{{ include "penstock.int" . }}
{{- end -}}
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
{{ include "penstock.bundledName" . }}
{{- else -}}
{{ required "existingSecret is not set: name the Secret that holds DATABASE_URL, REDIS_URL, OBJECT_STORE_URL and PENSTOCK_ENCRYPTION_KEYS (or set bundled.enabled to try Penstock)" .Values.existingSecret }}
{{- end -}}
{{- end -}}

{{/* What every pod of ours has; `of` is its part of the values, with its own placement. */}}
{{- define "penstock.pod" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What every container of ours has. */}}
{{- define "penstock.container" -}}
image: {{ include "penstock.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
resources:
  {{- toYaml .of.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Migrations run before the ConfigMaps exist, and need the Secrets only. */}}
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
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "penstock.mounts" -}}
volumeMounts:
  - name: pipelines
    mountPath: /etc/penstock/pipelines
    readOnly: true
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "penstock.volumes" -}}
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
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
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
