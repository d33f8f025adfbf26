.PHONY: test-containers provision deploy rollback
test-containers: setup ## The production stack in containers: hardening, deploys over SSH under load, kill -9 (needs an engine; minutes)
	@$(BIN)/pytest tests/containers -o faulthandler_timeout=900 $(ARGS)

provision: ## Make a bare Debian host ready for deploys: HOST=root@address KEY=deploy.pub ENV=stage|prod (again at will)
	@ENV=$(ENV) ops/scripts/provision.sh "$(HOST)" "$(KEY)"

deploy: ## On the server: migrate, switch to IMAGE= (BACKUP_IMAGE=) without dropping a request, or go back by itself
	@ENV=$(ENV) ops/scripts/deploy.sh "$(IMAGE)" "$(BACKUP_IMAGE)"

rollback: ## On the server: the images before the last deploy
	@ENV=$(ENV) ops/scripts/rollback.sh
