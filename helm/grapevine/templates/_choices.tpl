{{/*
What follows from `mode` where a value says `auto`, and what cannot go together. A choice that the schema cannot see is refused here,
with the name of the value.
*/}}

{{- define "grapevine.inPod" -}}
{{- if eq .Values.mode "in-pod" }}true{{ end }}
{{- end }}

{{- define "grapevine.expose" -}}
{{- if ne .Values.app.expose "auto" }}
{{- .Values.app.expose }}
{{- else if include "grapevine.inPod" . }}loopback
{{- else }}service
{{- end }}
{{- end }}

{{- define "grapevine.preStop" -}}
{{- if ne .Values.drain.preStop "auto" }}
{{- .Values.drain.preStop }}
{{- else if include "grapevine.inPod" . }}none
{{- else }}drain
{{- end }}
{{- end }}

{{- define "grapevine.readyWhen" -}}
{{- if ne .Values.probes.readiness.when "auto" }}
{{- .Values.probes.readiness.when }}
{{- else if include "grapevine.inPod" . }}listening
{{- else }}caught-up
{{- end }}
{{- end }}

{{- define "grapevine.validate" -}}
{{- $inPod := include "grapevine.inPod" . }}
{{- $expose := include "grapevine.expose" . }}
{{- $preStop := include "grapevine.preStop" . }}
{{- if lt (int .Values.cluster.expectedMembers) 1 }}
{{- fail "cluster.expectedMembers is 0, and must be 1 to 1024: say how many sidecars there are to be at first (mode daemonset: the nodes that will have one, see `kubectl get nodes`; mode in-pod: the replicas of your Deployment)" }}
{{- end }}
{{- if not (regexMatch "^[a-z]" (include "grapevine.fullname" .)) }}
{{- fail (printf "the full name, %s, does not begin with a letter, as names of Services must: give fullnameOverride" (include "grapevine.fullname" .)) }}
{{- end }}
{{- if and $inPod (not (has $expose (list "loopback" "socket"))) }}
{{- fail (printf "app.expose is %s, but mode in-pod takes auto, loopback or socket: there the sidecar has the pod's addresses, and nothing is authenticated" $expose) }}
{{- end }}
{{- if and (not $inPod) (eq $expose "loopback") }}
{{- fail "app.expose is loopback, but in mode daemonset no application shares the pod's loopback: choose service, hostPort or socket" }}
{{- end }}
{{- if and (eq $expose "hostPort") (not .Values.app.hostPort.hostIP) }}
{{- fail "app.hostPort.hostIP is empty, and app.expose is hostPort: say which of the node's addresses it is to be, 0.0.0.0 for all; whoever reaches it may invalidate" }}
{{- end }}
{{- if and $inPod (ne $preStop "none") }}
{{- fail (printf "drain.preStop is %s, but mode in-pod takes auto or none: a sidecar's hook runs before the application has ended" $preStop) }}
{{- end }}
{{- if and (eq $preStop "sleep") (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "drain.preStop is sleep, which Kubernetes knows from 1.30 on; this cluster has %s" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if and (eq .Values.storage.type "existingClaim") (not .Values.storage.existingClaim.name) }}
{{- fail "storage.existingClaim.name is empty, and storage.type is existingClaim: name a claim that all nodes can mount" }}
{{- end }}
{{- if and $inPod (eq .Values.storage.type "hostPath") }}
{{- fail "storage.type is hostPath, which mode in-pod does not take: two pods of one node would share the directory" }}
{{- end }}
{{- if and .Values.hostPathOwner.enabled (not .Values.hostPathOwner.image) }}
{{- fail "hostPathOwner.image is empty, and hostPathOwner.enabled is true: name an image that has chown" }}
{{- end }}
{{- if and .Values.cache.urls .Values.cache.existingSecret.name }}
{{- fail "cache.urls and cache.existingSecret.name are both given: a sidecar takes its caches from one of them" }}
{{- end }}
{{- if and .Values.existingConfigMap .Values.cache.urls }}
{{- fail "cache.urls are given, and existingConfigMap too: name the caches in that file" }}
{{- end }}
{{- if and .Values.existingConfigMap (or .Values.policies .Values.policyDefault) }}
{{- fail "policies or policyDefault are given, and existingConfigMap too: write the policies into that file" }}
{{- end }}
{{- if and .Values.networkPolicy.enabled $inPod (not .Values.networkPolicy.extraIngress) }}
{{- fail "networkPolicy.extraIngress is empty, and networkPolicy.enabled is true in mode in-pod: the policy would isolate your application's pods; say who else may reach them" }}
{{- end }}
{{- if and (not .Values.metrics.enabled) (or .Values.metrics.serviceMonitor.enabled .Values.metrics.prometheusRule.enabled) }}
{{- fail "metrics.enabled is false, but metrics.serviceMonitor or metrics.prometheusRule needs it" }}
{{- end }}
{{- $ports := list }}
{{- range $name, $port := omit .Values.ports "gossip" }}
{{- if has (int $port) $ports }}
{{- fail (printf "ports.%s is %d, which is another TCP port of the sidecar already" $name (int $port)) }}
{{- end }}
{{- $ports = append $ports (int $port) }}
{{- end }}
{{- end }}
