##@ ECS (ENV=staging or production)
.PHONY: provision database deploy rollback once
provision: setup ## In AWS: network, balancer, database, Redis, buckets, roles, secrets; again after each change of them
	@ops/deploy/ecs/provision.sh "$(ENV)"

database: ## In AWS, once: the role of the application and its database, by BACKUP_IMAGE=
	@ops/deploy/ecs/database.sh "$(ENV)" "$(BACKUP_IMAGE)"

deploy: ## In AWS: migrate, switch to IMAGE= and BACKUP_IMAGE=, or go back by itself
	@ops/deploy/ecs/deploy.sh "$(ENV)" "$(IMAGE)" "$(BACKUP_IMAGE)"

rollback: ## In AWS: the release before the last one
	@ops/deploy/ecs/rollback.sh "$(ENV)"

once: ## In AWS: a command of the project as a task of its own: RUN="python -m app.cli tasks dead"
	@ops/deploy/ecs/once.sh "$(ENV)" $(RUN)
