/* What is configured, and sessions: see oci/ask.c for how they ask, oci/fetch.c for what. */
#include "oci/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "oci/session.h"
#include "oci/url.h"

#define CONNECT_MS 10000
#define STALL_MS 30000
#define TRIES 4u
#define RETRY_MS 500

static char *copy(const char *text)
{
	char *copied = strdup(text != NULL ? text : "");
	if (copied == NULL) abort();
	return copied;
}

static void *alloc(size_t n, size_t size)
{
	void *p = calloc(n > 0 ? n : 1, size);
	if (p == NULL) abort();
	return p;
}

/* ---- mirrors -----------------------------------------------------------------------------------
 */

/* The URL without slashes at its end, and with /v2, which containerd appends as well. */
static char *mirror_base(const char *url)
{
	char *base = NULL;
	size_t n = strlen(url);
	while (n > 0 && url[n - 1] == '/') n--;
	bool has_v2 = n >= 3 && memcmp(url + n - 3, "/v2", 3) == 0;
	if (asprintf(&base, "%.*s%s", (int)n, url, has_v2 ? "" : "/v2") < 0) abort();
	return base;
}

/* Whose certificates are trusted for a mirror: its own entry's, else those of whom it stands for.
 */
static const char *mirror_ca(const struct cairn_registry_opts *opts, const char *host,
			     const char *fallback)
{
	for (size_t i = 0; i < opts->n_hosts; i++) {
		if (strcasecmp(opts->hosts[i].host, host) == 0) return opts->hosts[i].ca;
	}
	return fallback;
}

static enum cairn_code take_mirror(const struct cairn_registry_opts *opts,
				   const struct cairn_registry_host *from, const char *text,
				   size_t id, struct cairn_mirror *ret, struct cairn_err *err)
{
	struct cairn_url url;
	char shown[CAIRN_URL_SHOW];
	enum cairn_code code = cairn_url_parse(text, NULL, &url, err);
	if (code != CAIRN_OK) return code;
	if (url.has_query || strchr(text, '#') != NULL) {
		cairn_url_fini(&url);
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "URL %s: a mirror's has no query and no fragment",
				     cairn_url_show(text, shown));
	}
	*ret = (struct cairn_mirror){.base = mirror_base(url.text),
				     .host = copy(url.host),
				     .ca = copy(mirror_ca(opts, url.host, from->ca)),
				     .https = url.https,
				     .id = id};
	cairn_url_fini(&url);
	return CAIRN_OK;
}

static enum cairn_code take_host(struct cairn_registry *registry,
				 const struct cairn_registry_opts *opts,
				 const struct cairn_registry_host *from, struct cairn_host *host,
				 struct cairn_err *err)
{
	host->name = copy(from->host);
	host->ca = copy(from->ca);
	host->plain_http = from->plain_http;
	host->mirrors = alloc(from->n_mirrors, sizeof(*host->mirrors));
	for (size_t i = 0; i < from->n_mirrors; i++) {
		enum cairn_code code = take_mirror(opts, from, from->mirrors[i],
						   registry->n_mirrors, &host->mirrors[i], err);
		if (code != CAIRN_OK) return cairn_err_wrap(err, "mirrors of %s", from->host);
		host->n_mirrors++;
		registry->n_mirrors++;
	}
	return CAIRN_OK;
}

/* ---- registries --------------------------------------------------------------------------------
 */

enum cairn_code cairn_registry_new(const struct cairn_registry_opts *opts,
				   struct cairn_registry **ret, struct cairn_err *err)
{
	struct cairn_registry *registry = alloc(1, sizeof(*registry));
	registry->docker_config = copy(opts->docker_config);
	registry->user_agent = copy(opts->user_agent != NULL ? opts->user_agent : "cairn");
	registry->connect_ms = opts->connect_ms > 0 ? opts->connect_ms : CONNECT_MS;
	registry->stall_ms = opts->stall_ms > 0 ? opts->stall_ms : STALL_MS;
	registry->retry_ms = opts->retry_ms > 0 ? opts->retry_ms : RETRY_MS;
	registry->tries = opts->tries > 0 ? opts->tries : TRIES;
	registry->hosts = alloc(opts->n_hosts, sizeof(*registry->hosts));
	registry->limit = opts->limit;
	for (size_t i = 0; i < opts->n_hosts; i++) {
		registry->n_hosts++; /* a part of it is freed as well */
		enum cairn_code code =
			take_host(registry, opts, &opts->hosts[i], &registry->hosts[i], err);
		if (code != CAIRN_OK) {
			cairn_registry_free(registry);
			return code;
		}
	}
	*ret = registry;
	return CAIRN_OK;
}

void cairn_registry_free(struct cairn_registry *registry)
{
	if (registry == NULL) return;
	for (size_t i = 0; i < registry->n_hosts; i++) {
		struct cairn_host *host = &registry->hosts[i];
		for (size_t k = 0; k < host->n_mirrors; k++) {
			free(host->mirrors[k].base);
			free(host->mirrors[k].host);
			free(host->mirrors[k].ca);
		}
		free(host->mirrors);
		free(host->name);
		free(host->ca);
	}
	free(registry->hosts);
	free(registry->docker_config);
	free(registry->user_agent);
	free(registry);
}

/* ---- sessions ----------------------------------------------------------------------------------
 */

static char *copy_secret(const char *secret)
{
	return secret != NULL && secret[0] != '\0' ? copy(secret) : NULL;
}

enum cairn_code cairn_registry_session_new(struct cairn_registry *registry,
					   const struct cairn_registry_login *login,
					   struct cairn_registry_session **ret,
					   struct cairn_err *err)
{
	struct cairn_http_client_opts opts = {.user_agent = registry->user_agent,
					      .connect_ms = registry->connect_ms,
					      .stall_ms = registry->stall_ms,
					      .limit = registry->limit};
	struct cairn_http_client *client = NULL;
	enum cairn_code code = cairn_http_client_new(&opts, &client, err);
	if (code != CAIRN_OK) return code;
	struct cairn_registry_session *session = alloc(1, sizeof(*session));
	session->registry = registry;
	session->client = client;
	session->mirror_down_ns = alloc(registry->n_mirrors, sizeof(*session->mirror_down_ns));
	if (login != NULL) {
		session->login.username = copy_secret(login->username);
		session->login.password = copy_secret(login->password);
		session->login.identity_token = copy_secret(login->identity_token);
		session->has_login =
			session->login.username != NULL || session->login.identity_token != NULL;
	}
	*ret = session;
	return CAIRN_OK;
}

void cairn_registry_session_free(struct cairn_registry_session *session)
{
	if (session == NULL) return;
	for (size_t i = 0; i < CAIRN_AUTHS_MAX; i++) {
		free(session->auths[i].base);
		cairn_secret_free(session->auths[i].header);
	}
	cairn_http_client_free(session->client);
	cairn_credentials_fini(&session->login);
	free(session->mirror_down_ns);
	free(session);
}
