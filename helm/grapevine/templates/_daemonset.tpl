{{/* What only the chart's own pods need. */}}

{{/* Where they run; the test's pod too, for it calls the sidecar of its own node. */}}
{{- define "grapevine.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* `fsGroup` does nothing for directories of the node, which the kubelet makes as root's. */}}
{{- define "grapevine.hostPathOwner" -}}
{{- $directories := list }}
{{- $mounts := list }}
{{- if eq .Values.storage.type "hostPath" }}
{{- $directories = append $directories "/var/lib/grapevine" }}
{{- $mounts = append $mounts (dict "name" "grapevine-data" "mountPath" "/var/lib/grapevine") }}
{{- end }}
{{- if eq (include "grapevine.expose" .) "socket" }}
{{- $directories = append $directories "/run/grapevine" }}
{{- $mounts = append $mounts (dict "name" "grapevine-run" "mountPath" "/run/grapevine") }}
{{- end }}
{{- if and .Values.hostPathOwner.enabled $mounts }}
initContainers:
  - name: own-directories
    image: {{ .Values.hostPathOwner.image }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command:
      - chown
      - {{ printf "%d:%d" (int64 .Values.securityContext.runAsUser) (int64 .Values.securityContext.runAsGroup) | quote }}
      {{- toYaml $directories | nindent 6 }}
    resources:
      requests:
        cpu: 10m
        memory: 16Mi
      limits:
        memory: 32Mi
    securityContext:
      runAsNonRoot: false
      runAsUser: 0
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities:
        drop:
          - ALL
        add:
          - CHOWN
      seccompProfile:
        type: RuntimeDefault
    volumeMounts:
      {{- toYaml $mounts | nindent 6 }}
{{- end }}
{{- end }}
