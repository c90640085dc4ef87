{{- define "devicedb.name" -}}
{{- if eq .Release.Name .Chart.Name }}{{ .Release.Name }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "devicedb.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "devicedb.labels" -}}
{{ include "devicedb.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "devicedb.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{/* Where the node with a number is reached: a dict of `root` and `number`. */}}
{{- define "devicedb.address" -}}
{{- $name := include "devicedb.name" .root -}}
{{ $name }}-{{ .number }}.{{ $name }}-nodes.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}:8080
{{- end }}

{{/* All nodes, as --join and --endpoint take them. */}}
{{- define "devicedb.addresses" -}}
{{- $all := list -}}
{{- range $number := until (int .Values.replicas) -}}
{{- $all = append $all (include "devicedb.address" (dict "root" $ "number" $number)) -}}
{{- end -}}
{{ join "," $all }}
{{- end }}

{{/* What meshes and ingresses are told of the port. */}}
{{- define "devicedb.protocol" -}}
{{ ternary "https" "kubernetes.io/h2c" (ne .Values.tls.secretName "") }}
{{- end }}

{{- define "devicedb.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "devicedb.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* A container that says one command of ddbctl: a dict of `root`, `name` and `words`. */}}
{{- define "devicedb.ctl" -}}
- name: {{ .name }}
  image: {{ include "devicedb.image" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  securityContext: {{- include "devicedb.security" .root | nindent 4 }}
  command: [/usr/bin/ddbctl]
  args:
  {{- range .words }}
  - {{ . | quote }}
  {{- end }}
  env:
  - { name: DDBCTL_ENDPOINT, value: {{ include "devicedb.addresses" .root | quote }} }
  - { name: DDBCTL_TIMEOUT, value: 60s }
  {{- if .root.Values.tls.secretName }}
  - { name: DDBCTL_CA, value: /certificates/ca.crt }
  - { name: DDBCTL_CERT, value: /certificates/admin-ops.crt }
  - { name: DDBCTL_KEY, value: /certificates/admin-ops.key }
  volumeMounts:
  - { name: certificates, mountPath: /certificates, readOnly: true }
  {{- end }}
{{- end }}
