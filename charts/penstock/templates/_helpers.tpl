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

{{/*
Merges a list of maps into one, as JSON. Later values replace earlier ones, also `false` and `0`, which Sprig's merge ignores.
*/}}
{{- define "penstock.merged" -}}
{{- $all := dict -}}
{{- range . -}}
{{- range $key, $value := . -}}
{{- $_ := set $all $key $value -}}
{{- end -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{/*
An object's metadata: `name`, and optionally `component`, `labels` and `annotations`. Labels that selectors use cannot be
replaced by values.
*/}}
{{- define "penstock.metadata" -}}
{{- $component := empty .component | ternary dict (dict "app.kubernetes.io/component" .component) -}}
{{- $own := include "penstock.labels" .root | fromYaml -}}
name: {{ .name }}
labels:
  {{- include "penstock.merged" (list .root.Values.commonLabels .labels $own $component) | fromJson | toYaml | nindent 2 }}
{{- with include "penstock.merged" (list .root.Values.commonAnnotations .annotations) | fromJson }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The metadata of a component's pods: `of` is its part of the values. */}}
{{- define "penstock.podMetadata" -}}
{{- $own := set (include "penstock.selector" .root | fromYaml) "app.kubernetes.io/component" .component -}}
labels:
  {{- include "penstock.merged" (list .root.Values.commonLabels .root.Values.podLabels .of.podLabels $own) | fromJson | toYaml | nindent 2 }}
{{- with include "penstock.merged" (list .root.Values.podAnnotations .of.podAnnotations) | fromJson }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
`image.registry` replaces the repository's registry: the part before the first slash, if it has a dot or a port as names of
registries have.
*/}}
{{- define "penstock.image" -}}
{{- $repository := .Values.image.repository -}}
{{- with .Values.image.registry -}}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^(localhost|[^/]*[.:][^/]*)/" $repository "") -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "penstock.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "penstock.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* The Secret of a component: its own, or the common one. */}}
{{- define "penstock.secret" -}}
{{- if .root.Values.bundled.enabled -}}
{{ include "penstock.bundledName" .root }}
{{- else if .of.existingSecret -}}
{{ .of.existingSecret }}
{{- else -}}
{{ required "existingSecret is not set: name the Secret that holds DATABASE_URL, REDIS_URL, OBJECT_STORE_URL and PENSTOCK_ENCRYPTION_KEYS (or one for each service, or set bundled.enabled to try Penstock)" .root.Values.existingSecret }}
{{- end -}}
{{- end -}}

{{/*
ConfigMaps that pods read are named by their content. A change creates a new object and so a rollout, old pods keep the content
that they were started with, and a rollback finds that content again.
*/}}
{{- define "penstock.settingsData" -}}
PENSTOCK_CONCURRENCY: {{ include "penstock.int" .Values.worker.concurrency | quote }}
PENSTOCK_GRACE_SECONDS: {{ include "penstock.int" .Values.worker.graceSeconds | quote }}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ include "penstock.text" $value | quote }}
{{- end }}
{{- end -}}

{{- define "penstock.pipelinesData" -}}
{{- if .Values.smokePipeline }}
smoke.yaml: |
  {{- .Files.Get "files/smoke.yaml" | nindent 2 }}
{{- end }}
{{- range $name, $text := .Values.pipelines }}
{{ $name }}: |
  {{- $text | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "penstock.alertsData" -}}
alerts.yaml: |
  {{- if kindIs "string" .Values.alerts.hooks }}
  {{- .Values.alerts.hooks | nindent 2 }}
  {{- else }}
  {{- toYaml .Values.alerts.hooks | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The name of the ConfigMap of `what`: settings, pipelines or alerts. */}}
{{- define "penstock.configMap" -}}
{{ include "penstock.fullname" .root }}-{{ .what }}-{{ include (printf "penstock.%sData" .what) .root | sha256sum | trunc 10 }}
{{- end -}}
