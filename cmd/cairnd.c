/* cairnd: options, and wiring of the parts.
 *
 * Order up: signals, limits, store (which takes the lock before anything else is touched), rpc, the
 * view of containerd, swarm, services, HTTP, sockets. Down in reverse; a worker's job may outlive
 * its call, so the store is closed only when rpc's threads are gone. */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "cache/cache.h"
#include "cmd/cairnd_audit.h"
#include "cmd/cairnd_notify.h"
#include "cmd/cairnd_reload.h"
#include "cmd/cairnd_remote.h"
#include "cmd/cairnd_swarm.h"
#include "cmd/cairnd_trim.h"
#include "config/config.h"
#include "oci/registry.h"
#include "plugin/plugin.h"
#include "rpc/rpc.h"

#define STOP_MS 30000 /* to stop, besides the drain */
#define EXIT_USAGE 2

struct daemon {
	struct cairn_config config;
	struct cairn_cache *cache;
	struct cairn_rpc *rpc;
	struct cairn_runtime *runtime;
	struct cairn_gc *gc;
	struct cairn_fills *fills;
	struct cairn_rate download; /* from peers and registries together */
	struct cairn_registry *registry;
	struct cairnd_swarm p2p;
	struct cairnd_remote remote;
	struct cairn_preheat *preheat;
	struct cairn_rpc_server *server;
	struct cairn_http *http;
	struct cairn_content_service content;
	struct cairn_admin_service admin;
	struct cairn_health_service health;
	int64_t started_ns, started_boot_ns;
	bool serving;
};

static const char usage[] =
	"Usage: cairnd --config FILE [--check-config]\n"
	"       cairnd --version | --help\n"
	"\n"
	"cairn keeps containerd's image blobs: run it before containerd, as the content\n"
	"proxy plugin that `cairnctl containerd-config` prints the configuration for.\n"
	"\n"
	"  --config FILE    configuration, see cairn.yaml(5); an empty file will do\n"
	"  --check-config   say whether FILE is valid, and exit\n"
	"  --version        print the version and exit\n"
	"  --help           print this and exit\n"
	"\n"
	"SIGTERM and SIGINT end it in good order within the configured `drain`; SIGHUP\n"
	"reads FILE and the certificates of `p2p.tls` again and opens `gc.log` anew; the\n"
	"log says which changes need a restart.\n";

/* ---- configuration ----------------------------------------------------------------------------*/

static int check_config(const char *path)
{
	struct cairn_config config;
	struct cairn_err err;
	if (cairn_config_load(path, &config, &err) != CAIRN_OK) {
		fprintf(stderr, "cairnd: %s\n", err.msg);
		return EXIT_FAILURE;
	}
	printf("%s: valid\n", path);
	cairn_config_fini(&config);
	return EXIT_SUCCESS;
}

/* ---- the process ------------------------------------------------------------------------------*/

/* Blocked here, and so in every thread that is started; main waits for them. */
static void block_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, set, NULL);
}

/* Each open blob, ingest and stream takes descriptors. */
static void raise_file_limit(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
		cairn_log(CAIRN_LOG_WARN, "file_limit_not_raised",
			  CAIRN_STR("err", strerror(errno)));
	}
}

/* Make the folder that the socket is to lie in, and what is missing above it, for its owner only.
 */
static enum cairn_code make_parent(const char *path, struct cairn_err *err)
{
	char dir[128]; /* a socket's path has at most 107 bytes */
	snprintf(dir, sizeof(dir), "%s", path);
	char *last = strrchr(dir, '/');
	for (char *at = strchr(dir + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
		*at = '\0';
		if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
			return cairn_err_sys(err, errno, "make folder %s for the socket", dir);
		}
		if (at == last) break;
		*at = '/';
	}
	return CAIRN_OK;
}

/* The lock is on state_dir; the socket may still be that of a daemon with another one. A dead
 * socket is in nobody's way. */
static enum cairn_code check_socket_free(const char *path, struct cairn_err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(addr.sun_path)) return CAIRN_OK;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) return cairn_err_sys(err, errno, "look who listens on %s", path);
	bool served = connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 ||
		      errno == EAGAIN; /* its queue is full */
	close(fd);
	if (!served) return CAIRN_OK;
	return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
			     "listen: somebody serves on %s already: stop that one, or listen "
			     "elsewhere",
			     path);
}

/* ---- up and down ------------------------------------------------------------------------------*/

static enum cairn_code open_store(struct daemon *d, struct cairn_err *err)
{
	struct cairn_cache_opts opts = {.dir = d->config.state_dir};
	return cairn_cache_open(&opts, &d->cache, err);
}

static void saw_images(void *arg, const struct cairn_listed_image *images, size_t n)
{
	struct daemon *d = arg;
	cairn_gc_on_images(d->cache, images, n);
	cairn_share_on_images(d->p2p.share, images, n);
}

static enum cairn_code start_runtime(struct daemon *d, struct cairn_err *err)
{
	struct cairn_runtime_opts opts = {
		.rpc = d->rpc,
		.cache = d->cache,
		.address = d->config.containerd.address,
		.interval_ms = cairnd_runtime_interval(&d->config),
		.on_images = saw_images,
		.on_images_arg = d,
	};
	return cairn_runtime_start(&opts, &d->runtime, err);
}

static enum cairn_code start_gc(struct daemon *d, struct cairn_err *err)
{
	struct cairn_gc_opts opts = {
		.cache = d->cache,
		.runtime = d->runtime,
		.rules = cairnd_gc_rules(&d->config),
		.interval_ms = d->config.gc.interval,
		.log = d->config.gc.log,
	};
	return cairn_gc_start(&opts, &d->gc, err);
}

static enum cairn_code open_registries(struct daemon *d, struct cairn_err *err)
{
	const struct cairn_config_registry *from = d->config.registries.hosts;
	size_t n = d->config.registries.n_hosts;
	struct cairn_registry_host *hosts = calloc(n + 1, sizeof(hosts[0]));
	if (hosts == NULL) abort();
	for (size_t i = 0; i < n; i++) {
		hosts[i] = (struct cairn_registry_host){
			.host = from[i].host,
			.plain_http = from[i].plain_http,
			.ca = from[i].ca,
			.mirrors = (const char *const *)from[i].mirrors.items,
			.n_mirrors = from[i].mirrors.n,
		};
	}
	const struct cairn_registry_opts opts = {
		.docker_config = d->config.registries.docker_config,
		.hosts = hosts,
		.n_hosts = n,
		.user_agent = "cairn/" CAIRN_VERSION,
		.limit = &d->download,
	};
	enum cairn_code rc = cairn_registry_new(&opts, &d->registry, err);
	free(hosts);
	return rc;
}

static enum cairn_code start_preheat(struct daemon *d, struct cairn_err *err)
{
	struct cairn_fleet_link link;
	cairn_fleet_link_swarm(d->p2p.swarm, &link);
	d->fills = cairn_fills_new(d->cache);
	const struct cairn_preheat_opts opts = {
		.cache = d->cache,
		.fills = d->fills,
		.gc = d->gc,
		.registry = d->registry,
		.swarm = d->p2p.swarm,
		.stall_ms = d->config.p2p.stall,
		.min_rate = d->config.p2p.min_rate,
		.share = d->p2p.share,
		.containerd = cairn_runtime_channel(d->runtime),
		.state_dir = d->config.state_dir,
		.owners = d->config.containerd.sharing_by_namespace,
		.fleet = d->p2p.swarm != NULL && !d->config.p2p.fleet_off ? &link : NULL,
	};
	return cairn_preheat_start(&opts, &d->preheat, err);
}

static void start_fleet(struct daemon *d)
{
	struct cairn_fleet_node_opts opts = {
		.cache = d->cache,
		.preheat = d->preheat,
		.gc = d->gc,
		.version = CAIRN_VERSION,
	};
	cairnd_fleet_start(&d->p2p, &d->config, &opts);
}

static void add_services(struct daemon *d)
{
	d->content = (struct cairn_content_service){
		.cache = d->cache,
		.runtime = d->runtime,
		.gc = d->gc,
		.share = d->p2p.share,
		.prefill = d->config.containerd.prefill,
		.owners_only = d->config.containerd.sharing_by_namespace,
		.waits = d->config.containerd.swarm_wait,
		.fills = d->fills,
		.swarm = d->p2p.swarm,
		.preheat = d->preheat,
		.stall_ms = d->config.p2p.stall,
		.min_rate = d->config.p2p.min_rate,
	};
	d->admin = (struct cairn_admin_service){
		.cache = d->cache,
		.runtime = d->runtime,
		.gc = d->gc,
		.preheat = d->preheat,
		.swarm = d->p2p.swarm,
		.clock = &cairn_clock_system,
		.version = CAIRN_VERSION,
		.state_dir = d->config.state_dir,
		.listen = d->config.listen,
		.started_ns = d->started_ns,
	};
	cairn_content_service_add(d->server, &d->content);
	cairn_admin_service_add(d->server, &d->admin);
	cairn_health_service_add(d->server, &d->health);
	cairn_rpc_server_watch(d->server, &(struct cairn_rpc_watch){.ended = cairnd_audit_local});
}

static void client_connected(void *runtime, pid_t pid)
{
	cairn_runtime_connected(runtime, pid);
}

static enum cairn_code start_http(struct daemon *d, struct cairn_err *err)
{
	if (d->config.http.listen[0] == '\0') return CAIRN_OK;
	struct cairn_http_opts opts = {
		.listen = d->config.http.listen,
		.cache = d->cache,
		.server = d->server,
		.runtime = d->runtime,
		.gc = d->gc,
		.content = &d->content,
		.fills = d->fills,
		.swarm = d->p2p.swarm,
		.health = &d->health,
		.version = CAIRN_VERSION,
		.started_ns = d->started_ns,
	};
	return cairn_http_start(&opts, &d->http, err);
}

static enum cairn_code start(struct daemon *d, struct cairn_err *err)
{
	cairn_rate_init(&d->download, d->config.p2p.download_limit,
			cairn_boot_ns(&cairn_clock_system));
	cairnd_remote_init(&d->remote, &d->config, &d->p2p.callers);
	enum cairn_code rc = open_store(d, err);
	if (rc == CAIRN_OK) rc = cairn_rpc_new(&(struct cairn_rpc_opts){0}, &d->rpc, err);
	if (rc == CAIRN_OK) rc = cairnd_share_new(&d->p2p, &d->config, d->cache, d->rpc, err);
	if (rc == CAIRN_OK) rc = start_runtime(d, err);
	if (rc == CAIRN_OK) rc = start_gc(d, err);
	if (rc == CAIRN_OK) rc = open_registries(d, err);
	if (rc == CAIRN_OK) {
		rc = cairnd_swarm_start(&d->p2p, &d->config, d->cache, d->rpc, &d->download, err);
	}
	if (rc == CAIRN_OK) rc = start_preheat(d, err);
	if (rc == CAIRN_OK) rc = cairn_rpc_server_new(d->rpc, &d->server, err);
	if (rc == CAIRN_OK) start_fleet(d);
	if (rc == CAIRN_OK) add_services(d);
	if (rc == CAIRN_OK) cairn_rpc_server_on_connect(d->server, client_connected, d->runtime);
	if (rc == CAIRN_OK) rc = make_parent(d->config.listen, err);
	if (rc == CAIRN_OK) rc = check_socket_free(d->config.listen, err);
	if (rc == CAIRN_OK) rc = cairn_rpc_server_listen_unix(d->server, d->config.listen, err);
	if (rc == CAIRN_OK) rc = start_http(d, err);
	if (rc == CAIRN_OK) rc = cairn_rpc_server_start(d->server, err);
	if (rc) return rc;
	d->serving = true;
	cairnd_remote_begin(&d->remote, d->rpc, &d->admin, &d->health);
	atomic_store(&d->health.serving, true);
	return CAIRN_OK;
}

static void stop(struct daemon *d)
{
	atomic_store(&d->health.serving, false);
	/* Who waits for containerd, or for a pass of garbage collection, is not waited for. */
	cairn_gc_cancel(d->gc);
	if (d->runtime != NULL) cairn_runtime_cancel(d->runtime);
	cairn_preheat_cancel_all(d->preheat);
	cairn_swarm_cancel(d->p2p.swarm);
	int64_t end_ns = cairn_boot_ns(&cairn_clock_system) + d->config.drain * CAIRN_NS_PER_MS;
	if (d->serving) {
		size_t cut = cairn_rpc_server_drain(d->server, d->config.drain);
		cairn_log(cut > 0 ? CAIRN_LOG_WARN : CAIRN_LOG_INFO, "drained",
			  CAIRN_NUM("cancelled_calls", cut));
	}
	/* Calls that came over the network touch the same parts: they end before these do. */
	int64_t left_ns = end_ns - cairn_boot_ns(&cairn_clock_system);
	cairnd_remote_stop(&d->remote, left_ns > 0 ? left_ns / CAIRN_NS_PER_MS : 0);
	cairn_http_stop(d->http);
	cairnd_fleet_stop(&d->p2p);
	cairn_preheat_stop(d->preheat);
	cairn_gc_stop(d->gc);
	cairn_runtime_stop(d->runtime);
	cairn_share_stop(d->p2p.share);
	cairn_swarm_stop(d->p2p.swarm);
	cairnd_remote_fini(&d->remote);
	cairn_share_free(d->p2p.share);
	cairn_rpc_server_free(d->server);
	cairn_rpc_free(d->rpc);
	cairn_fills_free(d->fills);
	cairn_registry_free(d->registry);
	cairn_rate_fini(&d->download);
	cairn_cache_close(d->cache);
}

static void log_ready(const struct daemon *d)
{
	struct cairn_cache_stats st;
	cairn_cache_stats(d->cache, &st);
	int64_t ms = (cairn_boot_ns(&cairn_clock_system) - d->started_boot_ns) / CAIRN_NS_PER_MS;
	cairn_log(
		CAIRN_LOG_INFO, "ready", CAIRN_STR("version", CAIRN_VERSION),
		CAIRN_STR("listen", d->config.listen), CAIRN_STR("state_dir", d->config.state_dir),
		CAIRN_NUM("http_port", d->http != NULL ? cairn_http_port(d->http) : 0),
		CAIRN_NUM("cached", st.cached_blobs), CAIRN_NUM("referenced", st.referenced_blobs),
		CAIRN_NUM("ingests", st.ingests), CAIRN_NUM("recovered", st.recovered),
		CAIRN_NUM("rebuilt", st.rebuilt), CAIRN_NUM("ms", ms));
}

/* Until it is time to stop. */
static void serve(struct daemon *d, const char *config_path, const sigset_t *signals)
{
	const struct cairnd_reload reload = {
		.path = config_path,
		.config = &d->config,
		.gc = d->gc,
		.runtime = d->runtime,
		.p2p = &d->p2p,
		.content = &d->content,
		.preheat = d->preheat,
		.download = &d->download,
	};
	for (;;) {
		int sig = 0;
		if (sigwait(signals, &sig) != 0) continue;
		cairn_log(CAIRN_LOG_INFO, "signal", CAIRN_STR("name", sigabbrev_np(sig)));
		if (sig != SIGHUP) return;
		cairnd_reload(&reload);
	}
}

/* A long drain is not to be cut off by the unit's own limit. */
static void tell_stopping(const struct daemon *d)
{
	char state[80];
	snprintf(state, sizeof(state), "STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu",
		 ((unsigned long long)d->config.drain + STOP_MS) * 1000);
	cairn_notify(state);
}

static int run(const char *config_path)
{
	struct daemon d = {
		.started_ns = cairn_real_ns(&cairn_clock_system),
		.started_boot_ns = cairn_boot_ns(&cairn_clock_system),
	};
	struct cairn_err err;
	sigset_t signals;
	if (cairn_config_load(config_path, &d.config, &err) != CAIRN_OK) {
		cairn_log(CAIRN_LOG_ERROR, "config_refused", CAIRN_ERRF(&err));
		return EXIT_FAILURE;
	}
	cairn_log_set_level(d.config.log_level);
	block_signals(&signals);
	mallopt(M_ARENA_MAX, 2); /* a few threads that do little: arenas of their own only cost */
	raise_file_limit();
	int status = EXIT_SUCCESS;
	if (start(&d, &err) == CAIRN_OK) {
		log_ready(&d);
		cairn_notify("READY=1");
		cairn_trim_startup();
		serve(&d, config_path, &signals);
		tell_stopping(&d);
	} else {
		cairn_log(CAIRN_LOG_ERROR, "start_failed",
			  CAIRN_STR("code", cairn_code_name(err.code)), CAIRN_ERRF(&err));
		status = EXIT_FAILURE;
	}
	stop(&d);
	cairn_config_fini(&d.config);
	if (status == EXIT_SUCCESS) cairn_log(CAIRN_LOG_INFO, "stopped", CAIRN_NUM("status", 0));
	return status;
}

int main(int argc, char **argv)
{
	enum { OPT_CONFIG = 1, OPT_CHECK, OPT_VERSION, OPT_HELP };
	static const struct option options[] = {
		{"config", required_argument, NULL, OPT_CONFIG},
		{"check-config", no_argument, NULL, OPT_CHECK},
		{"version", no_argument, NULL, OPT_VERSION},
		{"help", no_argument, NULL, OPT_HELP},
		{NULL, 0, NULL, 0},
	};
	const char *config = NULL;
	bool check = false;
	for (int opt; (opt = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (opt) {
		case OPT_CONFIG:
			config = optarg;
			break;
		case OPT_CHECK:
			check = true;
			break;
		case OPT_VERSION:
			printf("cairnd %s\n", CAIRN_VERSION);
			return EXIT_SUCCESS;
		case OPT_HELP:
			fputs(usage, stdout);
			return EXIT_SUCCESS;
		default:
			fputs(usage, stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc || config == NULL) {
		fprintf(stderr, "cairnd: %s\n%s",
			config == NULL ? "--config FILE is needed" : "too many arguments", usage);
		return EXIT_USAGE;
	}
	return check ? check_config(config) : run(config);
}
