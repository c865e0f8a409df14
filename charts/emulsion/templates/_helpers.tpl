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

{{/* Replicas spread over zones and nodes where they can; in a rollout, those of the new revision among themselves. Called with (list . "router"). */}}
{{- define "emulsion.spread" -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "emulsion.selector" $ | nindent 6 }}
  matchLabelKeys: ["pod-template-hash"]
{{- end }}
{{- end -}}

{{/* A span of time such as 1m30s in whole seconds, rounded up. */}}
{{- define "emulsion.seconds" -}}
{{- $milliseconds := 0 -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- range $part := regexFindAll "[0-9]+(ms|s|m|h)" . -1 -}}
{{- $unit := regexFind "[a-z]+" $part -}}
{{- $milliseconds = add $milliseconds (mul (trimSuffix $unit $part | int64) (get $units $unit)) -}}
{{- end -}}
{{- div (add $milliseconds 999) 1000 -}}
{{- end -}}

{{/* Whether routers keep everything in stores that they share: "true" or nothing. What cannot work is refused here. */}}
{{- define "emulsion.sharedStores" -}}
{{- $router := .Values.router -}}
{{- if and $router.outputs.url (not $router.outputs.existingSecret) -}}
{{- fail "router.outputs.url needs router.outputs.existingSecret: a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" -}}
{{- end -}}
{{- if and $router.outputs.existingSecret (not $router.outputs.url) -}}
{{- fail "router.outputs.existingSecret is set without router.outputs.url: say which bucket it opens, such as s3://images" -}}
{{- end -}}
{{- $shared := and $router.database.existingSecret $router.outputs.url -}}
{{- if and (gt (int $router.replicas) 1) (not $shared) -}}
{{- fail (printf "router.replicas is %d, but each router would keep accounts or images for itself: set router.database.existingSecret and router.outputs.url, which they share, or leave router.replicas at 1" (int $router.replicas)) -}}
{{- end -}}
{{- if $shared -}}true{{- end -}}
{{- end -}}

{{/* The safety checker's file, or nothing. What cannot work is refused here. */}}
{{- define "emulsion.safetyChecker" -}}
{{- with .Values.safetyChecker -}}
{{- if and .existingClaim (not .file) -}}
{{- fail "safetyChecker.existingClaim is set without safetyChecker.file: say which file in the volume holds the weights" -}}
{{- end -}}
{{- if and .file (not .existingClaim) (not (hasPrefix "/" .file)) -}}
{{- fail "safetyChecker.file must begin with / where it is in the runtime's image: set safetyChecker.existingClaim for a file in a volume" -}}
{{- end -}}
{{- .file -}}
{{- end -}}
{{- end -}}

{{/* A published model of the catalog by its file's name: (list $ NAME). */}}
{{- define "emulsion.catalogued" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $files := dict -}}
{{- range $path, $_ := $root.Files.Glob "catalog/*.yaml" -}}
{{- $_ := set $files (trimSuffix ".yaml" (base $path)) $path -}}
{{- end -}}
{{- if not (hasKey $files $name) -}}
{{- fail (printf "catalog has no %s; it has %s" $name (keys $files | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $root.Files.Get (get $files $name) -}}
{{- end -}}
