#include "cmd/cairnd_reload.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "cmd/cairnd_notify.h"

static struct cairn_gc_mark mark(const struct cairn_config_amount *amount)
{
	return (struct cairn_gc_mark){amount->is_percent, amount->value};
}

struct cairn_gc_rules cairnd_gc_rules(const struct cairn_config *config)
{
	return (struct cairn_gc_rules){
		.keep_ns = config->gc.keep_storage * CAIRN_NS_PER_MS,
		.marks = {.high = mark(&config->gc.high_watermark),
			  .low = mark(&config->gc.low_watermark),
			  .min_free = mark(&config->gc.min_free)},
		.keep_versions = config->gc.keep_versions,
		.keep_versions_ns = config->gc.keep_versions_for * CAIRN_NS_PER_MS,
	};
}

int64_t cairnd_runtime_interval(const struct cairn_config *config)
{
	return 2 * config->gc.interval;
}

/* ---- taking values ----------------------------------------------------------------------------*/

static enum cairn_code set_gc(const struct cairnd_reload *r, const struct cairn_config *config,
			      struct cairn_err *err)
{
	const struct cairn_gc_rules rules = cairnd_gc_rules(config);
	return cairn_gc_set(r->gc, &rules, config->gc.interval, config->gc.log, err);
}

static void is_peers(void *arg, const char *key, bool reloads)
{
	(void)reloads;
	if (strcmp(key, "p2p.peers") == 0) *(bool *)arg = true;
}

/* What can fail. Nothing is changed if anything does. */
static enum cairn_code set_or_leave(const struct cairnd_reload *r, const struct cairn_config *fresh,
				    struct cairn_err *err)
{
	struct cairn_err undone;
	enum cairn_code rc = set_gc(r, fresh, err);
	if (rc) return rc;
	bool peers = false;
	(void)cairn_config_diff(r->config, fresh, is_peers, &peers);
	/* With another directory they are for the next start. */
	peers = peers && r->config->p2p.directory_etcd == fresh->p2p.directory_etcd;
	if (peers) rc = cairnd_swarm_set_peers(r->p2p, fresh, err);
	if (rc && set_gc(r, r->config, &undone) != CAIRN_OK) {
		cairn_log(CAIRN_LOG_ERROR, "reload_not_undone", CAIRN_ERRF(&undone));
	}
	return rc;
}

static void set_limits(const struct cairnd_reload *r, const struct cairn_config *config)
{
	int64_t stall_ms = config->p2p.stall;
	uint64_t min_rate = config->p2p.min_rate;
	cairn_rate_set(r->download, config->p2p.download_limit, cairn_boot_ns(&cairn_clock_system));
	cairnd_swarm_set_limits(r->p2p, config);
	cairn_content_service_set_limits(r->content, stall_ms, min_rate);
	cairn_preheat_set_limits(r->preheat, stall_ms, min_rate);
	cairn_runtime_set_interval(r->runtime, cairnd_runtime_interval(config));
}

/* ---- telling ----------------------------------------------------------------------------------*/

static void tell_change(void *arg, const char *key, bool reloads)
{
	unsigned *left = arg;
	*left += !reloads;
	cairn_log(reloads ? CAIRN_LOG_INFO : CAIRN_LOG_WARN, "reload", CAIRN_STR("key", key),
		  CAIRN_STR("result", reloads ? "applied" : "needs_restart"));
}

/* While both levels are at work: whoever asked for more is to see this, too. */
static void tell(const struct cairnd_reload *r, const struct cairn_config *fresh)
{
	unsigned left = 0;
	if (fresh->log_level < cairn_log_level()) cairn_log_set_level(fresh->log_level);
	size_t applied = cairn_config_diff(r->config, fresh, tell_change, &left);
	cairn_log(CAIRN_LOG_INFO, "reloaded", CAIRN_STR("path", r->path),
		  CAIRN_NUM("applied", applied), CAIRN_NUM("needs_restart", left));
	cairn_log_set_level(fresh->log_level);
}

static void read_again(const struct cairnd_reload *r)
{
	struct cairn_config fresh;
	struct cairn_err err;
	if (cairn_config_load(r->path, &fresh, &err) != CAIRN_OK) {
		cairn_log(CAIRN_LOG_ERROR, "reload_refused", CAIRN_ERRF(&err));
		return;
	}
	if (set_or_leave(r, &fresh, &err) != CAIRN_OK) {
		cairn_log(CAIRN_LOG_ERROR, "reload_refused", CAIRN_STR("path", r->path),
			  CAIRN_ERRF(&err));
	} else {
		set_limits(r, &fresh);
		tell(r, &fresh);
		cairn_config_exchange(r->config, &fresh);
	}
	cairn_config_fini(&fresh);
}

void cairnd_reload(const struct cairnd_reload *r)
{
	char state[64];
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRId64,
		 now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000);
	cairn_notify(state);
	/* These are files of their own: a mistake in the configuration must not keep an old
	 * certificate, or a log that was moved away, in use. */
	cairn_gc_reopen_log(r->gc);
	cairnd_swarm_reload(r->p2p);
	read_again(r);
	cairn_notify("READY=1");
}
