{{/* Names. */}}
{{- define "rankrag.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for the longest suffix, "-metrics". */}}
{{- define "rankrag.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "rankrag.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "rankrag.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "rankrag.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "rankrag.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Name, namespace, labels and annotations of an object: (list context component suffix). */}}
{{- define "rankrag.metadata" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $suffix := index . 2 -}}
name: {{ include "rankrag.fullname" $root }}{{ $suffix }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "rankrag.labels" (list $root $component) | nindent 2 }}
{{- with $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* All labels: (list context component). */}}
{{- define "rankrag.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "rankrag.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: {{ include "rankrag.name" $root }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that never change: (list context component). */}}
{{- define "rankrag.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "rankrag.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Images. */}}
{{- define "rankrag.image" -}}
{{- include "rankrag.reference" (dict "image" .Values.image "tag" .Chart.AppVersion) }}
{{- end }}

{{- define "rankrag.reference" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .tag .image.tag }}
{{- end }}
{{- end }}

{{/* Pods. Spread constraints without a selector of their own get the pods' labels: (list context component constraints). */}}
{{- define "rankrag.spread" -}}
{{- $labels := include "rankrag.selectorLabels" (list (index . 0) (index . 1)) | fromYaml -}}
{{- range index . 2 }}
- {{ toYaml (merge (deepCopy .) (dict "labelSelector" (dict "matchLabels" $labels))) | nindent 2 | trim }}
{{- end }}
{{- end }}

{{/* What a container must not have: (list context key-in-secret-values variable). */}}
{{- define "rankrag.secretEnv" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret.existingSecret }}
      key: {{ .secret.existingSecretKey }}
{{- end }}

{{/* The checkpoint, as service and vLLM name it. The copy's directory is named by what it was copied from, which tells
one checkpoint's cached scores from another's where the weights aren't there to be looked at. */}}
{{- define "rankrag.checkpoint" -}}
{{- if eq .Values.model.source "pvc" -}}
/models/{{ .Values.model.name | trimPrefix "/" }}
{{- else if eq .Values.model.source "image" -}}
/models/{{ printf "%s %s" (include "rankrag.modelImage" .) .Values.model.name | sha1sum }}
{{- else -}}
{{ .Values.model.name }}
{{- end }}
{{- end }}

{{- define "rankrag.modelImage" -}}
{{- .Values.model.image.reference | default (include "rankrag.image" .) }}
{{- end }}

{{/* The volume at /models: (list context size). */}}
{{- define "rankrag.modelVolume" -}}
{{- $root := index . 0 -}}
- name: models
{{- if eq $root.Values.model.source "pvc" }}
  persistentVolumeClaim:
    claimName: {{ $root.Values.model.pvc.existingClaim }}
    readOnly: true
{{- else }}
  emptyDir:
    sizeLimit: {{ index . 1 }}
{{- end }}
{{- end }}

{{/* The init container that copies the checkpoint out of its image; `weights` says whether all of it. */}}
{{- define "rankrag.copyModel" -}}
- name: model
  image: {{ include "rankrag.modelImage" .root }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [sh, -euc]
  args:
    - |
      mkdir -p "$TARGET"
      for file in "$SOURCE"/*; do
        {{- if not .weights }}
        case "$file" in *.safetensors | *.bin | *.pt | *.pth | *.gguf) continue ;; esac
        {{- end }}
        cp -r "$file" "$TARGET"/
      done
  env:
    - name: SOURCE
      value: {{ .root.Values.model.name | quote }}
    - name: TARGET
      value: {{ include "rankrag.checkpoint" .root }}
  resources:
    requests: {cpu: 100m, memory: 128Mi}
    limits: {memory: 1Gi}
  securityContext:
    {{- toYaml .securityContext | nindent 4 }}
  volumeMounts:
    - {name: models, mountPath: /models}
{{- end }}

{{- define "rankrag.hubEnv" -}}
- name: HF_HOME
  value: /models
{{- with .Values.model.hub }}
{{- if .existingSecret }}
{{ include "rankrag.secretEnv" (dict "variable" "HF_TOKEN" "secret" .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where the service finds vLLM. */}}
{{- define "rankrag.vllmUrl" -}}
{{- if .Values.vllm.enabled -}}
http://{{ include "rankrag.fullname" . }}-vllm.{{ .Release.Namespace }}.svc:8000
{{- else -}}
{{ join "," .Values.vllm.external.urls }}
{{- end }}
{{- end }}

{{/* The settings file: the user's and those that follow from other values. */}}
{{- define "rankrag.config" -}}
{{- $vllm := .Values.vllm -}}
{{- $made := dict "checkpoint" (include "rankrag.checkpoint" .) "host" "0.0.0.0" "port" 8080 -}}
{{- if and (eq .Values.model.source "hub") .Values.model.revision }}
{{- $_ := set $made "checkpoint_revision" .Values.model.revision }}
{{- end }}
{{- $engine := dict "url" (include "rankrag.vllmUrl" .) -}}
{{- $_ := set $engine "resolve" (ternary true $vllm.external.resolve $vllm.enabled) -}}
{{- $_ := set $engine "priority_scheduling" (ternary true $vllm.external.priorityScheduling $vllm.enabled) -}}
{{- if and $vllm.enabled $vllm.maxNumBatchedTokens }}
{{- $_ := set $engine "window_tokens" (max 8192 (mul 2 (int $vllm.maxNumBatchedTokens)) | int) }}
{{- end }}
{{- $_ := set $made "vllm" (mergeOverwrite $engine (deepCopy (default dict .Values.config.vllm))) -}}
{{- $_ := set $made "admin" (dict "host" "0.0.0.0" "port" (int .Values.admin.port)) -}}
{{- $auth := ternary (dict "mode" "keys" "key_file" "/etc/rankrag-keys/keys.yaml") (dict "mode" "off") .Values.auth.enabled -}}
{{- $_ := set $made "auth" (merge $auth (deepCopy (default dict .Values.config.auth))) -}}
{{- if .Values.tls.existingSecret }}
{{- $tls := dict "cert_file" "/etc/rankrag-tls/tls.crt" "key_file" "/etc/rankrag-tls/tls.key" }}
{{- $_ := set $made "tls" (merge $tls (deepCopy (default dict .Values.config.tls))) }}
{{- end }}
{{- if ne .Values.index.source "none" }}
{{- $_ := set $made "index" (merge (dict "path" "/index/current") (deepCopy (default dict .Values.config.index))) }}
{{- end }}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $made) }}
{{- end }}

{{/* Pods of the service that are wanted at least. */}}
{{- define "rankrag.minReplicas" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.replicaCount (ne .Values.autoscaling.kind "") }}
{{- end }}

{{- define "rankrag.vllmMinReplicas" -}}
{{- ternary .Values.vllm.autoscaling.minReplicas .Values.vllm.replicaCount (ne .Values.vllm.autoscaling.kind "") }}
{{- end }}

{{/* The port of a URL. */}}
{{- define "rankrag.urlPort" -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- default (ternary "443" "80" (eq $url.scheme "https")) $port }}
{{- end }}
