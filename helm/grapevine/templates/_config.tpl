{{/*
The sidecar's configuration. The file holds what an operator chooses: knobs, caches, policies. What follows from the pod and the
chart (names, addresses, the data directory) comes as environment variables, which win over the file: so it holds as well when
the file is yours (`existingConfigMap`).

Values from YAML are numbers of 64-bit floating point: whole ones are written as such, or TOML would read 1024.0.
*/}}

{{- define "grapevine.toml.value" -}}
{{- if kindIs "string" . }}{{ toJson . }}
{{- else if kindIs "bool" . }}{{ . }}
{{- else if kindIs "slice" . }}[
{{- range $index, $each := . }}{{ if $index }}, {{ end }}{{ include "grapevine.toml.value" $each }}{{ end -}}
]
{{- else if and (kindIs "float64" .) (ne (floor .) .) }}{{ . }}
{{- else }}{{ int64 . }}
{{- end }}
{{- end }}

{{- define "grapevine.toml.table" -}}
{{- range $key, $value := . }}
{{ $key }} = {{ include "grapevine.toml.value" $value }}
{{- end }}
{{- end }}

{{- define "grapevine.toml" -}}
# Made by the chart from `config`, `cache.urls`, `policies` and `policyDefault`. Names, addresses and paths are in the environment.
{{- range $section, $knobs := .Values.config }}
{{- if $knobs }}

[{{ $section }}]
{{- include "grapevine.toml.table" $knobs }}
{{- end }}
{{- end }}
{{- with .Values.cache.urls }}

[cache]
url = {{ include "grapevine.toml.value" . }}
{{- end }}
{{- range .Values.policies }}

[[policy]]
{{- include "grapevine.toml.table" . }}
{{- end }}
{{- with .Values.policyDefault }}

[policy_default]
{{- include "grapevine.toml.table" . }}
{{- end }}
{{- end }}

{{/* An address with a port: context, host, port. */}}
{{- define "grapevine.address" -}}
{{- if eq .context.Values.ipFamily "IPv6" }}[{{ .host }}]:{{ .port }}{{ else }}{{ .host }}:{{ .port }}{{ end }}
{{- end }}

{{/* Where it listens on all of the pod's addresses: context, port. */}}
{{- define "grapevine.listen" -}}
{{- $host := ternary "::" "0.0.0.0" (eq .context.Values.ipFamily "IPv6") }}
{{- include "grapevine.address" (dict "context" .context "host" $host "port" .port) }}
{{- end }}

{{- define "grapevine.loopback" -}}
{{- $host := ternary "::1" "127.0.0.1" (eq .Values.ipFamily "IPv6") }}
{{- include "grapevine.address" (dict "context" . "host" $host "port" (int .Values.ports.app)) }}
{{- end }}

{{- define "grapevine.socketPath" -}}
/run/grapevine/{{ .Values.app.socket.fileName }}
{{- end }}

{{/* Where commands in the sidecar's own container call it. */}}
{{- define "grapevine.ownEndpoint" -}}
{{- if eq (include "grapevine.expose" .) "socket" }}unix:{{ include "grapevine.socketPath" . }}
{{- else }}http://{{ include "grapevine.loopback" . }}
{{- end }}
{{- end }}

{{/* Where applications call it, as they say it in GRAPEVINE_ENDPOINT. */}}
{{- define "grapevine.appEndpoint" -}}
{{- $expose := include "grapevine.expose" . }}
{{- if eq $expose "service" }}
{{- printf "http://%s.%s.svc.%s:%d" (include "grapevine.fullname" .) .Release.Namespace .Values.clusterDomain (int .Values.ports.app) }}
{{- else if eq $expose "hostPort" }}
{{- $host := ternary "$(HOST_IP)" .Values.app.hostPort.hostIP (has .Values.app.hostPort.hostIP (list "0.0.0.0" "::")) }}
{{- printf "http://%s" (include "grapevine.address" (dict "context" . "host" $host "port" (int (.Values.app.hostPort.port | default .Values.ports.app)))) }}
{{- else }}
{{- include "grapevine.ownEndpoint" . }}
{{- end }}
{{- end }}

{{- define "grapevine.fieldEnv" -}}
- name: {{ .name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ .path }}
{{- end }}

{{- define "grapevine.env" -}}
{{- $values := .Values }}
{{- $expose := include "grapevine.expose" . }}
{{- $inPod := include "grapevine.inPod" . }}
{{- include "grapevine.fieldEnv" (dict "name" "POD_NAME" "path" "metadata.name") }}
{{ include "grapevine.fieldEnv" (dict "name" "POD_IP" "path" "status.podIP") }}
{{ include "grapevine.fieldEnv" (dict "name" "NODE_NAME" "path" "spec.nodeName") }}
{{ include "grapevine.fieldEnv" (dict "name" "HOST_IP" "path" "status.hostIP") }}
# What the CLI asks when it is run in this container.
- name: GRAPEVINE_ENDPOINT
  value: {{ include "grapevine.ownEndpoint" . | quote }}
- name: GRAPEVINE_CONFIG
  value: /etc/grapevine/grapevine.toml
- name: GRAPEVINE_NODE_ID
  value: {{ ternary "$(POD_NAME)" "$(NODE_NAME)" (eq $inPod "true") | quote }}
- name: GRAPEVINE_CLUSTER_NAME
  value: {{ $values.cluster.name | default (include "grapevine.fullname" .) | quote }}
- name: GRAPEVINE_CLUSTER_EXPECTED_MEMBERS
  value: {{ int $values.cluster.expectedMembers | quote }}
- name: GRAPEVINE_APP_TCP
  {{- if has $expose (list "service" "hostPort") }}
  value: {{ include "grapevine.listen" (dict "context" . "port" (int $values.ports.app)) | quote }}
  {{- else if eq $expose "loopback" }}
  value: {{ include "grapevine.loopback" . | quote }}
  {{- else }}
  value: ""
  {{- end }}
- name: GRAPEVINE_APP_UNIX
  value: {{ ternary (include "grapevine.socketPath" .) "" (eq $expose "socket") | quote }}
{{- if and (eq $expose "socket") $values.app.socket.mode }}
- name: GRAPEVINE_APP_UNIX_MODE
  value: {{ $values.app.socket.mode | quote }}
{{- end }}
- name: GRAPEVINE_PEER_LISTEN
  value: {{ include "grapevine.listen" (dict "context" . "port" (int $values.ports.peer)) | quote }}
- name: GRAPEVINE_PEER_ADVERTISE
  value: {{ include "grapevine.address" (dict "context" . "host" "$(POD_IP)" "port" (int $values.ports.peer)) | quote }}
- name: GRAPEVINE_GOSSIP_LISTEN
  value: {{ include "grapevine.listen" (dict "context" . "port" (int $values.ports.gossip)) | quote }}
- name: GRAPEVINE_GOSSIP_ADVERTISE
  value: {{ include "grapevine.address" (dict "context" . "host" "$(POD_IP)" "port" (int $values.ports.gossip)) | quote }}
# One name that stands for all of them.
- name: GRAPEVINE_GOSSIP_SEEDS
  value: {{ printf "%s.%s.svc.%s:%d" (include "grapevine.gossipService" .) .Release.Namespace $values.clusterDomain (int $values.ports.gossip) | quote }}
- name: GRAPEVINE_STORE_PATH
  value: /var/lib/grapevine
- name: GRAPEVINE_HEALTH_LISTEN
  value: {{ include "grapevine.listen" (dict "context" . "port" (int $values.ports.health)) | quote }}
- name: GRAPEVINE_METRICS_LISTEN
  {{- if $values.metrics.enabled }}
  value: {{ include "grapevine.listen" (dict "context" . "port" (int $values.ports.metrics)) | quote }}
  {{- else }}
  value: ""
  {{- end }}
- name: GRAPEVINE_DRAIN_TIMEOUT
  value: {{ printf "%ds" (int $values.drain.timeoutSeconds) | quote }}
{{- with $values.cache.existingSecret }}
{{- if .name }}
- name: GRAPEVINE_CACHE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- with $values.otel }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_SERVICE_NAME
  value: {{ .serviceName | quote }}
- name: OTEL_TRACES_SAMPLER
  value: {{ .sampler | quote }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .samplerArg | quote }}
- name: OTEL_RESOURCE_ATTRIBUTES
  {{- $attributes := list "k8s.pod.name=$(POD_NAME)" "k8s.node.name=$(NODE_NAME)" (printf "k8s.namespace.name=%s" $.Release.Namespace) }}
  {{- range $key, $value := .resourceAttributes }}
  {{- $attributes = append $attributes (printf "%s=%v" $key $value) }}
  {{- end }}
  value: {{ join "," $attributes | quote }}
{{- end }}
{{- range $name, $value := .env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- with $values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
