/* One request of a session, asked at the mirrors of its registry in order and then at the registry.
 *
 * A mirror is tried once, since there is somebody else to ask, and one that cannot be reached is
 * left alone for a while. The registry is tried several times for what may pass, with pauses that
 * double and are random, so that many nodes do not come back at once. A host that makes progress is
 * as good as new, mirror or not.
 *
 * A host that answers 401 is told who we are and asked again, once for each request; what was
 * learnt is kept, so that the next request brings it along. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/log.h"
#include "oci/answer.h"
#include "oci/session.h"
#include "oci/url.h"

#define MIRROR_REST_NS (30 * CAIRN_NS_PER_S)

/* Whom is asked. */
struct target {
	char *base; /* URL, with /v2 */
	const char *host, *ca;
	const char *ns; /* the registry that a mirror stands for; NULL: none, it is the registry */
	bool https, is_mirror;
};

/* How the tries at one host go. */
struct tries {
	unsigned failed; /* in a row, without progress */
	bool authorized; /* 401 was answered, since progress was made */
	struct cairn_again again;
	bool unreachable; /* the last try brought no answer */
};

/* ---- who we are ------------------------------------------------------------------------------
 */

static struct cairn_auth *find_auth(struct cairn_registry_session *s, const struct target *t,
				    const char *repository)
{
	for (size_t i = 0; i < CAIRN_AUTHS_MAX; i++) {
		struct cairn_auth *auth = &s->auths[i];
		if (auth->base != NULL && strcmp(auth->base, t->base) == 0 &&
		    strcmp(auth->repository, repository) == 0) {
			return auth;
		}
	}
	struct cairn_auth *auth = &s->auths[s->next_auth++ % CAIRN_AUTHS_MAX];
	free(auth->base);
	cairn_secret_free(auth->header);
	*auth = (struct cairn_auth){.base = strdup(t->base)};
	if (auth->base == NULL) abort();
	snprintf(auth->repository, sizeof(auth->repository), "%s", repository);
	return auth;
}

static char *copy(const char *text)
{
	char *copied = text != NULL ? strdup(text) : NULL;
	if (text != NULL && copied == NULL) abort();
	return copied;
}

/* The session's login is for its registry only; docker_config serves everybody else. What is wrong
 * with the file is told once, and again by the error if it turns out to be needed. */
static void find_credentials(struct cairn_ask *ask, const struct target *t,
			     struct cairn_credentials *ret, struct cairn_err *why)
{
	struct cairn_registry_session *s = ask->session;
	struct cairn_registry *registry = s->registry;
	bool helper = false;
	*ret = (struct cairn_credentials){0};
	why->msg[0] = '\0';
	if (s->has_login && !t->is_mirror && strcmp(s->login_for, ask->ref->registry) == 0) {
		ret->username = copy(s->login.username);
		ret->password = copy(s->login.password);
		ret->identity_token = copy(s->login.identity_token);
		return;
	}
	if (registry->docker_config[0] == '\0') return;
	enum cairn_code code = cairn_docker_config_read(registry->docker_config, t->host,
							ask->ref->repository, ret, &helper, why);
	if (code != CAIRN_OK && !atomic_exchange(&registry->told_config, true)) {
		cairn_log(CAIRN_LOG_WARN, "docker_config_unusable", CAIRN_ERRF(why));
	}
	if (code != CAIRN_OK || !helper) return;
	cairn_err_set(why, CAIRN_FAILED_PRECONDITION,
		      "docker_config %s names a credential helper, which is not run: write the "
		      "credentials into its auths",
		      registry->docker_config);
	if (!atomic_exchange(&registry->told_helper, true)) {
		cairn_log(CAIRN_LOG_WARN, "docker_config_helper_ignored", CAIRN_ERRF(why));
	}
}

/* Add to an error about who we are why we are nobody. */
static enum cairn_code blame(enum cairn_code code, const struct cairn_credentials *c,
			     const struct cairn_err *why, struct cairn_err *err)
{
	size_t n = strlen(err->msg), room = sizeof(err->msg) - n;
	if (code != CAIRN_UNAUTHENTICATED && code != CAIRN_PERMISSION_DENIED) return code;
	if (why->msg[0] != '\0') {
		snprintf(err->msg + n, room, " (%s)", why->msg);
	} else if (c->username == NULL && c->identity_token == NULL) {
		snprintf(err->msg + n, room, " (no credentials are configured for it)");
	}
	return code;
}

/* Have a header for what the host asked for, and not one that has expired. */
static enum cairn_code renew(struct cairn_ask *ask, const struct target *t, struct cairn_auth *auth,
			     struct cairn_again *again, struct cairn_err *err)
{
	struct cairn_credentials credentials;
	struct cairn_err why = {0};
	char *header = NULL;
	if (auth->challenge.scheme == CAIRN_AUTH_NONE) return CAIRN_OK;
	if (auth->header != NULL && cairn_boot_ns(&cairn_clock_system) < auth->expires_ns) {
		return CAIRN_OK;
	}
	find_credentials(ask, t, &credentials, &why);
	struct cairn_authorize a = {.client = ask->session->client,
				    .challenge = &auth->challenge,
				    .credentials = &credentials,
				    .repository = ask->ref->repository,
				    .ca = t->ca,
				    .plain_http = !t->https,
				    .go_on = ask->go_on};
	enum cairn_code code = cairn_authorize(&a, &header, &auth->expires_ns, again, err);
	if (code == CAIRN_OK) {
		cairn_secret_free(auth->header);
		auth->header = header;
	} else {
		cairn_err_wrap(err, "%s", t->host);
		code = blame(code, &credentials, &why, err);
	}
	cairn_credentials_fini(&credentials);
	return code;
}

/* The answer was 401. Once, that is no error yet. */
static enum cairn_code challenged(struct cairn_ask *ask, const struct target *t,
				  struct cairn_auth *auth, const struct cairn_http_answer *answer,
				  struct tries *tries, enum cairn_code code, struct cairn_err *err)
{
	struct cairn_credentials credentials;
	struct cairn_err why = {0};
	bool known = answer->own_origin && answer->challenge.scheme != CAIRN_AUTH_NONE;
	cairn_secret_free(cairn_steal(&auth->header));
	if (known) auth->challenge = answer->challenge;
	tries->again.yes = known && !tries->authorized;
	if (tries->again.yes) {
		tries->authorized = true;
		return code;
	}
	find_credentials(ask, t, &credentials, &why);
	code = blame(code, &credentials, &why, err);
	cairn_credentials_fini(&credentials);
	return code;
}

/* ---- one try ---------------------------------------------------------------------------------
 */

static char *make_url(const struct cairn_ask *ask, const struct target *t)
{
	char *url = NULL;
	if (asprintf(&url, "%s/%s/%s/%s", t->base, ask->ref->repository, ask->kind, ask->name) <
	    0) {
		abort();
	}
	if (t->ns != NULL) {
		char *longer = cairn_url_add(url, "ns", t->ns);
		free(url);
		url = longer;
	}
	return url;
}

static enum cairn_code finish(struct cairn_ask *ask, const struct target *t, const char *url,
			      struct cairn_auth *auth, struct cairn_http_answer *answer,
			      struct tries *tries, struct cairn_err *err)
{
	if (answer->status < 300) {
		enum cairn_code code = ask->end(ask->arg, answer, err);
		tries->again.yes = ask->again;
		return code == CAIRN_OK ? code : cairn_err_wrap(err, "%s", t->host);
	}
	cairn_answer_hide(answer, cairn_secret_part(auth->header));
	enum cairn_code code = cairn_answer_error(answer, url, &tries->again, err);
	if (answer->status == 401) return challenged(ask, t, auth, answer, tries, code, err);
	if (answer->status == 416 && !ask->no_range) {
		ask->no_range = true; /* all of it, then, and drop what is there already */
		tries->again.yes = true;
	}
	return code;
}

static enum cairn_code try_once(struct cairn_ask *ask, const struct target *t, struct tries *tries,
				struct cairn_err *err)
{
	struct cairn_http_answer answer;
	struct cairn_auth *auth = find_auth(ask->session, t, ask->ref->repository);
	tries->again = (struct cairn_again){0};
	tries->unreachable = false;
	ask->status = 0;
	enum cairn_code code = renew(ask, t, auth, &tries->again, err);
	if (code != CAIRN_OK) return code;
	char *url = make_url(ask, t);
	struct cairn_http_request request = {.method = ask->method,
					     .url = url,
					     .accept = ask->accept,
					     .authorization = auth->header,
					     .ca = t->ca,
					     .total_ms = ask->total_ms,
					     .body = ask->body,
					     .arg = ask->arg};
	ask->again = false;
	ask->begin(ask->arg, &request);
	code = cairn_http_do(ask->session->client, &request, ask->go_on, &answer, err);
	ask->status = answer.status;
	if (code == CAIRN_OK) {
		code = finish(ask, t, url, auth, &answer, tries, err);
	} else if (answer.stopped) {
		tries->again.yes = ask->again;
		if (!ask->over) cairn_err_wrap(err, "%s", t->host);
	} else {
		tries->again.yes = code == CAIRN_UNAVAILABLE;
		tries->unreachable = code == CAIRN_UNAVAILABLE && answer.status == 0;
	}
	free(url);
	return code;
}

/* ---- one host --------------------------------------------------------------------------------
 */

static enum cairn_code ask_host(struct cairn_ask *ask, const struct target *t,
				bool *ret_unreachable, struct cairn_err *err)
{
	const struct cairn_registry *registry = ask->session->registry;
	unsigned most = t->is_mirror ? 1 : registry->tries;
	struct tries tries = {0};
	ask->no_range = false;
	for (;;) {
		uint64_t before = ask->progress;
		bool was_authorized = tries.authorized;
		enum cairn_code code = try_once(ask, t, &tries, err);
		bool moved = ask->progress > before;
		*ret_unreachable = tries.unreachable;
		if (ask->complete && code == CAIRN_UNAVAILABLE) return CAIRN_OK;
		if (code == CAIRN_OK || code == CAIRN_CANCELLED || ask->over) return code;
		if (!tries.again.yes) return code;
		if (tries.authorized && !was_authorized) continue;
		if (moved) tries = (struct tries){.again = tries.again};
		if (!moved && ++tries.failed >= most) return code;
		int64_t wait_ms = tries.again.wait_ms;
		if (wait_ms == 0) {
			wait_ms = cairn_backoff_ms(moved ? 1 : tries.failed, registry->retry_ms);
		}
		enum cairn_code waited = cairn_wait(wait_ms * CAIRN_NS_PER_MS, ask->go_on, err);
		if (waited != CAIRN_OK) return waited;
	}
}

/* ---- all hosts -------------------------------------------------------------------------------
 */

static const struct cairn_host *find_host(const struct cairn_registry *registry, const char *name)
{
	for (size_t i = 0; i < registry->n_hosts; i++) {
		if (strcasecmp(registry->hosts[i].name, name) == 0) return &registry->hosts[i];
	}
	return NULL;
}

static void leave_alone(struct cairn_registry_session *s, const struct cairn_mirror *mirror)
{
	s->mirror_down_ns[mirror->id] = cairn_boot_ns(&cairn_clock_system) + MIRROR_REST_NS;
}

void cairn_registry_doubt(struct cairn_registry_session *session)
{
	if (session->answered == NULL) return;
	cairn_log(CAIRN_LOG_WARN, "mirror_lied", CAIRN_STR("host", session->answered->host),
		  CAIRN_STR("action", "it is not asked for a while"));
	leave_alone(session, session->answered);
}

/* False: go on with the next host. */
static bool ask_mirror(struct cairn_ask *ask, const struct cairn_mirror *mirror,
		       enum cairn_code *ret, struct cairn_err *err)
{
	struct cairn_registry_session *s = ask->session;
	bool unreachable = false;
	int64_t now_ns = cairn_boot_ns(&cairn_clock_system);
	if (now_ns < s->mirror_down_ns[mirror->id]) return false;
	struct target t = {.base = mirror->base,
			   .host = mirror->host,
			   .ca = mirror->ca,
			   .https = mirror->https,
			   .is_mirror = true};
	if (strcasecmp(mirror->host, ask->ref->registry) != 0) t.ns = ask->ref->registry;
	s->answered = mirror;
	*ret = ask_host(ask, &t, &unreachable, err);
	if (*ret == CAIRN_OK || *ret == CAIRN_CANCELLED || ask->over) return true;
	if (unreachable) leave_alone(s, mirror);
	cairn_log(*ret == CAIRN_NOT_FOUND ? CAIRN_LOG_DEBUG : CAIRN_LOG_INFO, "mirror_passed_over",
		  CAIRN_STR("host", mirror->host), CAIRN_ERRF(err));
	return false;
}

static enum cairn_code ask_registry(struct cairn_ask *ask, const struct cairn_host *host,
				    struct cairn_err *err)
{
	const char *name = ask->ref->registry;
	const char *server = strcmp(name, "docker.io") == 0 ? "registry-1.docker.io" : name;
	bool plain = host != NULL && host->plain_http, unreachable = false;
	struct target t = {.host = name, .ca = host != NULL ? host->ca : "", .https = !plain};
	ask->session->answered = NULL;
	if (asprintf(&t.base, "%s://%s/v2", plain ? "http" : "https", server) < 0) abort();
	enum cairn_code code = ask_host(ask, &t, &unreachable, err);
	free(t.base);
	return code;
}

enum cairn_code cairn_ask(struct cairn_ask *ask, struct cairn_err *err)
{
	struct cairn_registry_session *s = ask->session;
	const struct cairn_host *host = find_host(s->registry, ask->ref->registry);
	enum cairn_code code = CAIRN_OK;
	if (s->login_for[0] == '\0') {
		snprintf(s->login_for, sizeof(s->login_for), "%s", ask->ref->registry);
	}
	if (!cairn_goes_on(ask->go_on)) return cairn_err_set(err, CAIRN_CANCELLED, "cancelled");
	for (size_t i = 0; host != NULL && i < host->n_mirrors; i++) {
		if (ask_mirror(ask, &host->mirrors[i], &code, err)) return code;
	}
	return ask_registry(ask, host, err);
}
