{{/* What the containers and pods of every component have in common. */}}

{{/* Stands at the container: Knative refuses most of it at the pod. */}}
{{- define "containerSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ default 1000 .runAsUser }}
runAsGroup: {{ default 1000 .runAsUser }}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* "settings" of one role as variables. Helm reads whole numbers as floats. */}}
{{- define "settings" -}}
{{- range $name, $value := . }}
- name: MODEL_SERVER_{{ upper $name }}
  {{- if kindIs "float64" $value }}
  value: {{ ternary (int64 $value | toString) (toString $value) (eq (floor $value) $value) | quote }}
  {{- else if or (kindIs "slice" $value) (kindIs "map" $value) }}
  value: {{ toJson $value | quote }}
  {{- else }}
  value: {{ toString $value | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "databaseEnv" -}}
- name: MODEL_SERVER_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "databaseSecret" . }}
      key: {{ ternary .Values.database.existingSecretKey "dsn" (not (empty .Values.database.existingSecret)) }}
{{- end -}}

{{/* Where predictions wait. */}}
{{- define "queueEnv" -}}
{{- with .Values.rabbitmq }}
{{- if .existingSecret }}
- name: MODEL_SERVER_QUEUE
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .existingSecretKey }}
- name: MODEL_SERVER_QUEUE_NAME
  value: {{ .queueName | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where pictures are, for whoever reads or writes them. */}}
{{- define "imageStoreEnv" -}}
{{- with .Values.images.storageUri }}
- name: MODEL_SERVER_IMAGE_STORE
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "imageStoreSecret" -}}
{{- with .Values.images.existingSecret }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
{{- end -}}

{{/* Changes with the password, so that pods read it anew. Who may see pods guesses at scrypt's price, for one release. */}}
{{- define "databaseChecksum" -}}
{{- $derived := derivePassword 1 "maximum" .Values.postgres.password (printf "%s/%s" .Release.Namespace .Release.Name) "database" -}}
{{- printf "%s/%s" .Values.database.existingSecret (ternary $derived "" (not (empty .Values.postgres.password))) | sha256sum -}}
{{- end -}}

{{/* Goes on serving until every node has taken the pod out of its endpoints. */}}
{{- define "preStop" -}}
preStop:
  exec:
    command: [sleep, {{ . | quote }}]
{{- end -}}

{{/* "probes" (dict "port" … "ready" … "live" …): a slow start is no failure, a busy pod is not killed. */}}
{{- define "probes" -}}
startupProbe:
  httpGet: {path: {{ .live }}, port: {{ .port }}}
  periodSeconds: 1
  failureThreshold: 120
readinessProbe:
  httpGet: {path: {{ .ready }}, port: {{ .port }}}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
livenessProbe:
  httpGet: {path: {{ .live }}, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* "placement" .Values.COMPONENT */}}
{{- define "placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* "spread" of the pods with these labels over nodes and zones. */}}
{{- define "spread" -}}
{{- $labels := . }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- $labels | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Name resolution, which every pod that asks another by name needs. */}}
{{- define "dnsEgress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}
