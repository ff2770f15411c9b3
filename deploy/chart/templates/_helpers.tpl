{{- define "partita.name" -}}
{{- $name := .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- if contains "partita" $name }}{{ $name }}{{ else }}{{ printf "%s-partita" $name }}{{ end -}}
{{- end -}}

{{- /* Labels of all objects; selectors use only component and instance. */ -}}
{{- define "partita.labels" -}}
{{ include "partita.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: partita
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "partita.selector" -}}
app.kubernetes.io/name: partita
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "partita.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "partita.controllerAccount" -}}
{{- .Values.controller.serviceAccount | default (printf "%s-controller" (include "partita.name" .)) -}}
{{- end -}}

{{- define "partita.gatewayAccount" -}}
{{- .Values.gateway.serviceAccount | default (printf "%s-gateway" (include "partita.name" .)) -}}
{{- end -}}

{{- define "partita.pickerAccount" -}}
{{- .Values.picker.serviceAccount | default (printf "%s-picker" (include "partita.name" .)) -}}
{{- end -}}

{{- define "partita.migManagerAccount" -}}
{{- .Values.migManager.serviceAccount | default (printf "%s-mig-manager" (include "partita.name" .)) -}}
{{- end -}}

{{- define "partita.pickerNamespace" -}}
{{- .Values.picker.namespace | default .Values.namespace | default .Release.Namespace -}}
{{- end -}}

{{- define "partita.gatewayNamespace" -}}
{{- .Values.gateway.namespace | default .Values.namespace | default .Release.Namespace -}}
{{- end -}}

{{- /* As the Pod Security profile `restricted` requires, with a read-only root file system. */ -}}
{{- define "partita.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "partita.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Spreads replicas over nodes if possible. */ -}}
{{- define "partita.placement" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "partita.selector" . | nindent 8 }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* What a pod may reach: DNS, the API server, and `more`, a list of further rules. */ -}}
{{- define "partita.egress" -}}
# DNS.
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
# The API server, which no selector matches.
- ports:
    {{- range .root.Values.networkPolicy.egress.apiServerPorts }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
{{- with concat .more .root.Values.networkPolicy.egress.more }}
{{ toYaml . }}
{{- end }}
{{- end -}}
