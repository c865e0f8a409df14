{{/* The name every object of a release begins with. */}}
{{- define "emulsion.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "emulsion.operator" -}}
{{ include "emulsion.name" . }}-operator
{{- end -}}

{{/* What selects the operator's pods; never changes within a release. */}}
{{- define "emulsion.operatorSelector" -}}
app.kubernetes.io/name: emulsion-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "emulsion.operatorLabels" -}}
{{ include "emulsion.operatorSelector" . }}
app.kubernetes.io/part-of: emulsion
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- end -}}
