{{/*
The sidecar's container and what its pod needs, for the DaemonSet and for pods of your own. To be used in a parent chart with the
context of this one: `.Subcharts.grapevine` (or the alias of the dependency).

  grapevine.sidecar                    an element of `initContainers`: a native sidecar
  grapevine.volumes                    elements of `volumes`
  grapevine.podLabels                  labels of the pod template
  grapevine.podAnnotations             annotations of the pod template: the checksum that rolls pods when the configuration changes
  grapevine.topologySpreadConstraints  elements of `topologySpreadConstraints`
  grapevine.imagePullSecrets           the field with its name, or nothing
  grapevine.appEnv                     elements of `env` of the application's container: GRAPEVINE_ENDPOINT
  grapevine.appVolumeMounts            elements of `volumeMounts` of that container, with `app.expose: socket`
*/}}

{{- define "grapevine.sidecar" -}}
{{- include "grapevine.validate" . -}}
name: grapevine
{{- if include "grapevine.inPod" . }}
# An init container that stays: it starts before the application and ends after it.
restartPolicy: Always
{{- end }}
image: {{ include "grapevine.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - sidecar
env:
  {{- include "grapevine.env" . | nindent 2 }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  {{- include "grapevine.ports" . | nindent 2 }}
{{- include "grapevine.probes" . }}
{{- include "grapevine.lifecycle" . }}
{{- with .Values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - name: grapevine-config
    mountPath: /etc/grapevine
    readOnly: true
  - name: grapevine-data
    mountPath: /var/lib/grapevine
    {{- if eq .Values.storage.type "existingClaim" }}
    subPathExpr: {{ ternary "$(POD_NAME)" "$(NODE_NAME)" (eq (include "grapevine.inPod" .) "true") }}
    {{- end }}
  {{- if eq (include "grapevine.expose" .) "socket" }}
  - name: grapevine-run
    mountPath: /run/grapevine
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Their names are the sidecar's own, for the pod may have a port called `metrics` already. */}}
{{- define "grapevine.ports" -}}
{{- $expose := include "grapevine.expose" . }}
{{- if ne $expose "socket" -}}
- name: gv-app
  containerPort: {{ int .Values.ports.app }}
  protocol: TCP
  {{- if eq $expose "hostPort" }}
  hostPort: {{ int (.Values.app.hostPort.port | default .Values.ports.app) }}
  hostIP: {{ .Values.app.hostPort.hostIP | quote }}
  {{- end }}
{{ end -}}
- name: gv-peer
  containerPort: {{ int .Values.ports.peer }}
  protocol: TCP
- name: gv-gossip
  containerPort: {{ int .Values.ports.gossip }}
  protocol: UDP
- name: gv-health
  containerPort: {{ int .Values.ports.health }}
  protocol: TCP
{{- if .Values.metrics.enabled }}
- name: gv-metrics
  containerPort: {{ int .Values.ports.metrics }}
  protocol: TCP
{{- end }}
{{- end }}

{{- define "grapevine.probes" }}
{{- $port := int .Values.ports.health }}
{{- $caughtUp := eq (include "grapevine.readyWhen" .) "caught-up" }}
{{- range $kind := list "startup" "liveness" "readiness" }}
{{- with get $.Values.probes $kind }}
{{- if .enabled }}
{{ $kind }}Probe:
  grpc:
    port: {{ $port }}
    {{- if and (eq $kind "readiness") $caughtUp }}
    service: grapevine.v1.ApplicationService
    {{- end }}
  periodSeconds: {{ int .periodSeconds }}
  timeoutSeconds: {{ int .timeoutSeconds }}
  failureThreshold: {{ int .failureThreshold }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* The image has no shell, and needs none: the program asks itself, at GRAPEVINE_ENDPOINT. */}}
{{- define "grapevine.lifecycle" }}
{{- $preStop := include "grapevine.preStop" . }}
{{- if eq $preStop "drain" }}
lifecycle:
  preStop:
    exec:
      command:
        - /grapevine
        - drain
{{- else if eq $preStop "sleep" }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ int .Values.drain.sleepSeconds }}
{{- end }}
{{- end }}

{{/* How long the pod may take to end: the drain, what follows it, and a sleep before it. */}}
{{- define "grapevine.terminationSeconds" -}}
{{- $sleep := ternary (int .Values.drain.sleepSeconds) 0 (eq (include "grapevine.preStop" .) "sleep") }}
{{- add (int .Values.drain.timeoutSeconds) (int .Values.drain.marginSeconds) $sleep }}
{{- end }}

{{- define "grapevine.volumes" -}}
- name: grapevine-config
  configMap:
    name: {{ include "grapevine.configMapName" . }}
    items:
      - key: {{ ternary .Values.existingConfigMapKey "grapevine.toml" (ne .Values.existingConfigMap "") }}
        path: grapevine.toml
{{- with .Values.storage }}
{{- if eq .type "emptyDir" }}
- name: grapevine-data
  {{- if or .emptyDir.sizeLimit .emptyDir.medium }}
  emptyDir:
    {{- with .emptyDir.medium }}
    medium: {{ . }}
    {{- end }}
    {{- with .emptyDir.sizeLimit }}
    sizeLimit: {{ . }}
    {{- end }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- else if eq .type "hostPath" }}
- name: grapevine-data
  hostPath:
    path: {{ .hostPath.path }}
    type: {{ .hostPath.type }}
{{- else if eq .type "ephemeralClaim" }}
- name: grapevine-data
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes:
          {{- toYaml .ephemeralClaim.accessModes | nindent 10 }}
        {{- with .ephemeralClaim.storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .ephemeralClaim.size }}
{{- else if eq .type "existingClaim" }}
- name: grapevine-data
  persistentVolumeClaim:
    claimName: {{ .existingClaim.name }}
{{- end }}
{{- end }}
{{- if eq (include "grapevine.expose" .) "socket" }}
- name: grapevine-run
  {{- if include "grapevine.inPod" . }}
  emptyDir: {}
  {{- else }}
  hostPath:
    path: {{ .Values.app.socket.hostPath }}
    type: DirectoryOrCreate
  {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "grapevine.podLabels" -}}
{{ include "grapevine.clusterLabel" . }}
{{- end }}

{{/* Of the file alone: what else changes, changes the pod template. */}}
{{- define "grapevine.podAnnotations" -}}
{{- if .Values.existingConfigMap -}}
checksum/grapevine-config: not-known-to-the-chart
{{- else -}}
checksum/grapevine-config: {{ include "grapevine.toml" . | sha256sum }}
{{- end }}
{{- end }}

{{- define "grapevine.topologySpreadConstraints" -}}
{{- $selector := dict "labelSelector" (dict "matchLabels" (include "grapevine.clusterLabel" . | fromYaml)) }}
{{- $default := list }}
{{- if include "grapevine.inPod" . }}
{{- $default = list (dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway") }}
{{- end }}
{{- $all := list }}
{{- range .Values.topologySpreadConstraints | default $default }}
{{- $all = append $all (merge (deepCopy .) $selector) }}
{{- end }}
{{- if $all }}
{{- toYaml $all }}
{{- end }}
{{- end }}

{{- define "grapevine.appEnv" -}}
{{- $endpoint := include "grapevine.appEndpoint" . }}
{{- if contains "$(HOST_IP)" $endpoint -}}
{{ include "grapevine.fieldEnv" (dict "name" "HOST_IP" "path" "status.hostIP") }}
{{ end -}}
- name: GRAPEVINE_ENDPOINT
  value: {{ $endpoint | quote }}
{{- end }}

{{- define "grapevine.appVolumeMounts" -}}
{{- if eq (include "grapevine.expose" .) "socket" -}}
- name: grapevine-run
  mountPath: /run/grapevine
{{- end }}
{{- end }}
