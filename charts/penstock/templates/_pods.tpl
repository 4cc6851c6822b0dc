{{/*
What our pods and containers have in common. `root` is the chart's context, `of` a component's part of the values. The
component's maps are merged over the common ones; its variables and volumes are added; other values replace the common ones.
*/}}

{{/* On OpenShift the cluster assigns user and groups, and refuses pods that set them. */}}
{{- define "penstock.podSecurity" -}}
{{- $context := include "penstock.merged" (list .root.Values.podSecurityContext .of.podSecurityContext) | fromJson -}}
{{- if .root.Values.openshift -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "penstock.pod" -}}
automountServiceAccountToken: false
securityContext:
  {{- include "penstock.podSecurity" . | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName | default .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with include "penstock.merged" (list .root.Values.nodeSelector .of.nodeSelector) | fromJson }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations | default .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity | default .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.initContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "penstock.container" -}}
image: {{ include "penstock.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
resources:
  {{- toYaml .of.resources | nindent 2 }}
securityContext:
  {{- include "penstock.merged" (list .root.Values.securityContext .of.securityContext) | fromJson | toYaml | nindent 2 }}
{{- end -}}

{{/*
The variables of a container. `env` are those that the chart sets itself. `early` is for hooks, which run before the ConfigMap
of settings exists: the settings are written into the pod.
*/}}
{{- define "penstock.environment" -}}
{{- $values := .root.Values -}}
{{- $given := dict -}}
{{- range concat ($values.extraEnv | default list) (.of.extraEnv | default list) -}}
{{- $_ := set $given .name true -}}
{{- end -}}
{{- $of := dict -}}
{{- range .of.extraEnv -}}
{{- $_ := set $of .name true -}}
{{- end -}}
{{- $env := .env | default list -}}
{{- if .early -}}
{{- range $name, $value := $values.settings -}}
{{- if not (hasKey $given $name) -}}
{{- $env = append $env (dict "name" $name "value" (include "penstock.text" $value)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $values.extraEnv -}}
{{- if not (hasKey $of .name) -}}
{{- $env = append $env . -}}
{{- end -}}
{{- end -}}
{{- $env = concat $env (.of.extraEnv | default list) -}}
envFrom:
  - secretRef:
      name: {{ include "penstock.secret" . }}
  {{- range concat ($values.extraSecrets | default list) (.of.extraSecrets | default list) | uniq }}
  - secretRef:
      name: {{ . }}
  {{- end }}
  {{- if not .early }}
  - configMapRef:
      name: {{ include "penstock.configMap" (dict "root" .root "what" "settings") }}
  {{- end }}
  {{- with concat ($values.extraEnvFrom | default list) (.of.extraEnvFrom | default list) }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* `mounts` are the chart's own. */}}
{{- define "penstock.mounts" -}}
{{- with concat (.mounts | default list) (.root.Values.extraVolumeMounts | default list) (.of.extraVolumeMounts | default list) -}}
volumeMounts:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* `volumes` are the chart's own. */}}
{{- define "penstock.volumes" -}}
{{- with concat (.volumes | default list) (.root.Values.extraVolumes | default list) (.of.extraVolumes | default list) -}}
volumes:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "penstock.pipelinesMount" -}}
- name: pipelines
  mountPath: /etc/penstock/pipelines
  readOnly: true
{{- end -}}

{{/* The definitions of the ConfigMap `name`, and those of existingPipelines. */}}
{{- define "penstock.pipelinesVolume" -}}
- name: pipelines
  projected:
    sources:
      - configMap:
          name: {{ .name }}
      {{- with .root.Values.existingPipelines }}
      - configMap:
          name: {{ . }}
      {{- end }}
{{- end -}}

{{/* A constraint without a selector selects the component's own pods. */}}
{{- define "penstock.spread" -}}
{{- with .of.topologySpreadConstraints | default .root.Values.topologySpreadConstraints -}}
{{- $constraints := list }}
{{- range . }}
{{- $constraint := . }}
{{- if not (hasKey . "labelSelector") }}
{{- $labels := set (include "penstock.selector" $.root | fromYaml) "app.kubernetes.io/component" $.component }}
{{- $constraint = include "penstock.merged" (list . (dict "labelSelector" (dict "matchLabels" $labels))) | fromJson }}
{{- end }}
{{- $constraints = append $constraints $constraint }}
{{- end -}}
topologySpreadConstraints:
  {{- toYaml $constraints | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The spec of a Deployment, without its pod template. */}}
{{- define "penstock.deployment" -}}
{{- if not .of.autoscaling.enabled -}}
replicas: {{ include "penstock.int" .of.replicas }}
{{- end }}
{{- $kept := kindIs "invalid" .of.revisionHistoryLimit | ternary .root.Values.revisionHistoryLimit .of.revisionHistoryLimit }}
{{- if not (kindIs "invalid" $kept) }}
revisionHistoryLimit: {{ include "penstock.int" $kept }}
{{- end }}
{{- with .of.strategy }}
strategy:
  {{- eq (.type | default "") "Recreate" | ternary (omit . "rollingUpdate") . | toYaml | nindent 2 }}
{{- end }}
selector:
  matchLabels:
    {{- include "penstock.selector" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
{{- end -}}
