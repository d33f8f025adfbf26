##@ Platform (PLATFORM=heroku, render or railway)
.PHONY: deploy rollback
deploy: ## Migrate, switch to IMAGE= and BACKUP_IMAGE= by digest, try, or go back by itself
	@python3 -m ops.deploy.paas deploy "$(PLATFORM)" "$(IMAGE)" "$(BACKUP_IMAGE)"

rollback: ## The version before
	@python3 -m ops.deploy.paas rollback "$(PLATFORM)"
