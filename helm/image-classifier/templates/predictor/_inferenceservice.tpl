{{/* "inferenceService" (dict "root" $ "name" … "storageUri" … "image" … "minReplicas" … "maxReplicas" … "autoscaler" …) */}}
{{- define "inferenceService" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $standard := include "isStandard" .root -}}
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {{ .name }}
  labels:
    {{- include "labels" (list .root "predictor") | nindent 4 }}
    # Nothing outside the cluster may ask the predictor: it knows no users.
    networking.kserve.io/visibility: cluster-local
  annotations:
    serving.kserve.io/deploymentMode: {{ $values.kserve.mode }}
    {{- if $standard }}
    serving.kserve.io/autoscalerClass: {{ .autoscaler }}
    {{- end }}
spec:
  predictor:
    {{- if ne .autoscaler "external" }}
    minReplicas: {{ .minReplicas }}
    maxReplicas: {{ .maxReplicas }}
    {{- end }}
    {{- if eq .autoscaler "hpa" }}
    scaleMetric: cpu
    scaleTarget: {{ $values.autoscaling.targetCPUUtilizationPercentage }}
    {{- else if eq .autoscaler "knative" }}
    scaleMetric: concurrency
    scaleTarget: {{ $values.autoscaling.knative.concurrency }}
    {{- end }}
    {{- with .canaryTrafficPercent }}
    canaryTrafficPercent: {{ . }}
    {{- end }}
    serviceAccountName: {{ default (include "serviceAccountName" $root) $values.predictor.serviceAccountName }}
    automountServiceAccountToken: false
    labels:
      {{- include "selector" (list .root "predictor") | nindent 6 }}
      {{- with $values.predictor.podLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with $values.predictor.podAnnotations }}
    annotations: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if $standard }}
    # A new model is up before an old pod goes.
    deploymentStrategy:
      type: RollingUpdate
      rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
    terminationGracePeriodSeconds: {{ $values.predictor.terminationGracePeriodSeconds }}
    securityContext:
      fsGroup: 1000
      seccompProfile:
        type: RuntimeDefault
    topologySpreadConstraints:
      {{- include "spread" (printf "serving.kserve.io/inferenceservice: %s" .name) | trim | nindent 6 }}
    {{- end }}
    model:
      modelFormat:
        name: model-server-bundle
        version: "1"
      protocolVersion: v2
      runtime: {{ include "fullname" $root }}
      {{- with .image }}
      image: {{ . }}
      {{- end }}
      {{- with .storageUri }}
      storageUri: {{ . | quote }}
      env:
        - name: MODEL_SERVER_MODEL_DIR
          value: /mnt/models
      {{- end }}
{{- end -}}
