##@ Kubernetes (ENV=staging or production)
.PHONY: manifests deploy rollback
manifests: ## Show what a deploy would apply: IMAGE= and BACKUP_IMAGE= by digest
	@ops/deploy/kubernetes/render.sh "$(ENV)" "$(IMAGE)" "$(BACKUP_IMAGE)"

deploy: ## Into the cluster of the current context: migrate, switch to IMAGE= and BACKUP_IMAGE=, or go back by itself
	@ops/deploy/kubernetes/deploy.sh "$(ENV)" "$(IMAGE)" "$(BACKUP_IMAGE)"

rollback: ## In the cluster: the release before the last one
	@ops/deploy/kubernetes/rollback.sh "$(ENV)"
