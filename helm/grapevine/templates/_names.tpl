{{/*
Names and labels. Names leave room for the longest suffix of an object of this chart within the 63 characters of a label.
*/}}

{{- define "grapevine.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "grapevine.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "grapevine.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What selects the DaemonSet's pods. Never changed: a DaemonSet's selector cannot be. */}}
{{- define "grapevine.selectorLabels" -}}
app.kubernetes.io/name: {{ include "grapevine.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: sidecar
{{- end }}

{{/* What every pod with a sidecar of this cluster has, in both modes: by it the gossip Service finds them. */}}
{{- define "grapevine.clusterLabel" -}}
grapevine/cluster: {{ include "grapevine.fullname" . }}
{{- end }}

{{/* Labels of an object: the context and its component. They win over `commonLabels`, for they are what selects. */}}
{{- define "grapevine.labels" -}}
{{- $ := .context -}}
{{- $own := include "grapevine.ownLabels" . | fromYaml }}
{{- mergeOverwrite (deepCopy $.Values.commonLabels) $own | toYaml }}
{{- end }}

{{- define "grapevine.ownLabels" -}}
{{- $ := .context -}}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ include "grapevine.name" $ }}
app.kubernetes.io/instance: {{ $.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: grapevine
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
{{- end }}

{{/* The metadata of an object: context, name, component; further labels, annotations and another namespace. */}}
{{- define "grapevine.metadata" -}}
{{- $ := .context -}}
name: {{ .name }}
namespace: {{ .namespace | default $.Release.Namespace }}
labels:
  {{- $labels := include "grapevine.labels" . | fromYaml }}
  {{- mergeOverwrite $labels (.labels | default dict) | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy ($.Values.commonAnnotations | default dict)) (.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "grapevine.gossipService" -}}
{{ include "grapevine.fullname" . }}-gossip
{{- end }}

{{- define "grapevine.configMapName" -}}
{{- .Values.existingConfigMap | default (printf "%s-config" (include "grapevine.fullname" .)) }}
{{- end }}

{{- define "grapevine.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "grapevine.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "grapevine.image" -}}
{{- $registry := .Values.global.imageRegistry | default .Values.image.registry }}
{{- $name := ternary (printf "%s/%s" $registry .Values.image.repository) .Values.image.repository (ne $registry "") }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" $name .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* Pull secrets, the global ones first, each once. Both forms are taken: a name, and an object with one. */}}
{{- define "grapevine.imagePullSecrets" -}}
{{- $names := list }}
{{- range concat (.Values.global.imagePullSecrets | default list) .Values.imagePullSecrets }}
{{- $names = append $names (ternary . (get (ternary dict . (kindIs "string" .)) "name") (kindIs "string" .)) }}
{{- end }}
{{- with $names | uniq }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
