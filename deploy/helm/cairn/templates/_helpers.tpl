{{- define "cairn.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "cairn.selector" -}}
app.kubernetes.io/name: cairn
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cairn.labels" -}}
{{ include "cairn.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "cairn.secret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{ include "cairn.name" . }}-tls
{{- else -}}
{{ required "tls.secretName or tls.certManager.enabled: nodes that share need certificates; else set peers.enabled to false" .Values.tls.secretName }}
{{- end -}}
{{- end -}}

{{/* cairn.yaml, as a map: what the chart knows, and over it .Values.config */}}
{{- define "cairn.config" -}}
{{- $seed := eq .Values.mode "seed" -}}
{{- $folder := ternary "/tls" "/etc/cairn/tls" $seed -}}
{{- $p2p := dict -}}
{{- if .Values.peers.enabled -}}
{{- $tls := dict "ca" (printf "%s/ca.crt" $folder) "cert" (printf "%s/tls.crt" $folder) "key" (printf "%s/tls.key" $folder) -}}
{{- $p2p = dict "listen" (printf "@ADDRESS@:%v" .Values.peers.port) "directory" .Values.peers.directory "tls" $tls -}}
{{- if eq .Values.peers.directory "static" -}}
{{- $host := printf "%s-peers.%s.svc.%s" (include "cairn.name" .) .Release.Namespace .Values.clusterDomain -}}
{{- $p2p = set $p2p "peers" (list (printf "%s:%v" $host .Values.peers.port)) -}}
{{- end -}}
{{- end -}}
{{- $config := dict "version" 1 "node" (dict "name" "@NODE_NAME@") "http" (dict "listen" (printf "@ADDRESS@:%v" .Values.http.port)) "p2p" $p2p -}}
{{- if $seed -}}
{{- $config = set $config "containerd" (dict "address" "") -}}
{{- end -}}
{{- $config = mergeOverwrite $config (deepCopy .Values.config) -}}
{{- if and $seed $config.containerd.address -}}
{{- fail "config.containerd.address: a seed is no containerd's store, and asks none; README.md says why. Use mode host." -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}
