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

{{- define "emulsion.router" -}}
{{ include "emulsion.name" . }}-router
{{- end -}}

{{/* The Secret with the token of which those for routers and replicas are made. */}}
{{- define "emulsion.token" -}}
{{ include "emulsion.name" . }}-installation
{{- end -}}

{{/* What selects a component's pods; never changes within a release. Called with (list . "operator"). */}}
{{- define "emulsion.selector" -}}
{{- $component := index . 1 -}}
app.kubernetes.io/name: emulsion-{{ $component }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
{{- end -}}

{{- define "emulsion.labels" -}}
{{- $root := index . 0 -}}
{{ include "emulsion.selector" . }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/part-of: emulsion
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service | quote }}
{{- end -}}

{{/* An image with its tag. Called with (list . "operator"). */}}
{{- define "emulsion.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{ required (printf "set images.%s: no image is published yet" $name) (index $root.Values.images $name) }}:{{ $root.Values.images.tag | default $root.Chart.AppVersion }}
{{- end -}}

{{/* The `restricted` level of pod security: of the pod, and of its container. */}}
{{- define "emulsion.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "emulsion.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end -}}

{{/* Namespaces whose objects are touched, if not all: JSON. */}}
{{- define "emulsion.namespaces" -}}
{{- list .Release.Namespace .Values.watchNamespace | uniq | toJson -}}
{{- end -}}
