{{/* Names and labels. */}}
{{- define "name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 characters leave room for what KServe and Knative append. */}}
{{- define "fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* "selector" (list $ "queue-proxy"): the labels that never change. */}}
{{- define "selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "labels" -}}
{{- $root := index . 0 -}}
{{ include "selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: {{ include "name" $root }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "databaseSecret" -}}
{{- default (printf "%s-database" (include "fullname" .)) .Values.database.existingSecret -}}
{{- end -}}

{{/* "isStandard", "canaryService": "true" or nothing. */}}
{{- define "isStandard" -}}
{{- if eq .Values.kserve.mode "Standard" }}true{{ end -}}
{{- end -}}

{{/* Whether the canary is an InferenceService of its own. */}}
{{- define "canaryService" -}}
{{- if and .Values.canary.enabled (include "isStandard" .) }}true{{ end -}}
{{- end -}}

{{/* "image" (dict "image" .Values.image "root" $): by digest where there is one. */}}
{{- define "image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "canaryImage" -}}
{{- $own := .Values.canary.image -}}
{{- $image := dict "repository" (default .Values.image.repository $own.repository) "tag" (default .Values.image.tag $own.tag) -}}
{{- $_ := set $image "digest" (ternary $own.digest (default .Values.image.digest $own.digest) (not (empty $own.tag))) -}}
{{- include "image" (dict "image" $image "root" .) -}}
{{- end -}}

{{/* Where the queue-proxy finds the predictor. Knative's address leads through its activator. */}}
{{- define "predictorUrl" -}}
{{- if include "isStandard" . -}}
http://{{ include "fullname" . }}-model
{{- else -}}
http://{{ include "fullname" . }}-predictor.{{ .Release.Namespace }}.svc.cluster.local
{{- end -}}
{{- end -}}
