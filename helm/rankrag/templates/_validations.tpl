{{/* What no schema can say of several values together; all mistakes at once. */}}
{{- define "rankrag.validate" -}}
{{- $v := .Values -}}
{{- $wrong := list -}}
{{- if not $v.image.repository }}
{{- $wrong = append $wrong "image.repository: where is the service's image?" }}
{{- end }}
{{- if not $v.model.name }}
{{- $wrong = append $wrong "model.name: which checkpoint?" }}
{{- end }}
{{- if and (eq $v.model.source "pvc") (not $v.model.pvc.existingClaim) }}
{{- $wrong = append $wrong "model.pvc.existingClaim: model.source is pvc" }}
{{- end }}
{{- if and (eq $v.index.source "pvc") (not $v.index.pvc.existingClaim) }}
{{- $wrong = append $wrong "index.pvc.existingClaim: index.source is pvc" }}
{{- end }}
{{- if and (eq $v.index.source "sync") (not $v.index.sync.source) }}
{{- $wrong = append $wrong "index.sync.source: index.source is sync" }}
{{- end }}
{{- if and $v.auth.enabled (not $v.auth.existingSecret) }}
{{- $wrong = append $wrong "auth.existingSecret: the Secret with the API keys; or say auth.enabled=false" }}
{{- end }}
{{- if and $v.vllm.enabled $v.vllm.external.urls }}
{{- $wrong = append $wrong "vllm.external.urls: vllm.enabled is true, so which of both?" }}
{{- end }}
{{- if and (not $v.vllm.enabled) (not $v.vllm.external.urls) }}
{{- $wrong = append $wrong "vllm.external.urls: vllm.enabled is false" }}
{{- end }}
{{- if and $v.vllm.external.resolve (ne (len $v.vllm.external.urls) 1) }}
{{- $wrong = append $wrong "vllm.external.resolve: takes exactly one URL in vllm.external.urls" }}
{{- end }}
{{- if and $v.vllm.gpuCount $v.vllm.tensorParallelSize (gt (int $v.vllm.tensorParallelSize) (int $v.vllm.gpuCount)) }}
{{- $wrong = append $wrong "vllm.tensorParallelSize: more than vllm.gpuCount" }}
{{- end }}
{{- if and (eq $v.redis.source "external") (not $v.redis.external.existingSecret) }}
{{- $wrong = append $wrong "redis.external.existingSecret: redis.source is external" }}
{{- end }}
{{- if and (eq $v.redis.source "builtin") $v.redis.builtin.auth.enabled (not $v.redis.builtin.auth.existingSecret) }}
{{- $wrong = append $wrong "redis.builtin.auth.existingSecret: the Secret with the password; or say redis.builtin.auth.enabled=false" }}
{{- end }}
{{- if and (or (eq $v.autoscaling.kind "keda") (eq $v.vllm.autoscaling.kind "keda")) (not $v.keda.prometheusAddress) }}
{{- $wrong = append $wrong "keda.prometheusAddress: a kind of autoscaling is keda" }}
{{- end }}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) }}
{{- $wrong = append $wrong "autoscaling.minReplicas: more than autoscaling.maxReplicas" }}
{{- end }}
{{- if gt (int $v.vllm.autoscaling.minReplicas) (int $v.vllm.autoscaling.maxReplicas) }}
{{- $wrong = append $wrong "vllm.autoscaling.minReplicas: more than vllm.autoscaling.maxReplicas" }}
{{- end }}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}
{{- $wrong = append $wrong "ingress.hosts: ingress.enabled is true" }}
{{- end }}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}
{{- $wrong = append $wrong "httpRoute.parentRefs: httpRoute.enabled is true" }}
{{- end }}
{{- if and $v.tests.enabled (eq $v.index.source "none") (not $v.tests.passages) }}
{{- $wrong = append $wrong "tests.passages: without an index the test's question needs passages" }}
{{- end }}
{{- $shutdown := default dict $v.config.shutdown -}}
{{- $ending := addf (get $shutdown "delay_s" | default 5) (get $shutdown "grace_s" | default 15) -}}
{{- if le (float64 $v.terminationGracePeriodSeconds) $ending }}
{{- $wrong = append $wrong "terminationGracePeriodSeconds: no more than config.shutdown.delay_s and config.shutdown.grace_s together" }}
{{- end }}
{{- with $wrong }}
{{- fail (printf "wrong values\n  %s" (join "\n  " .)) }}
{{- end }}
{{- end }}
