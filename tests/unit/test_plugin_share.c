/* Which blobs may leave: patterns, what is learnt, and the labels of containerd, which is a fake
 * that knows one call. */
#include "support/content_fixture.h"

#include <pthread.h>

#include "plugin/listing.h"
#include "plugin/share.h"
#include "support/fake_swarm.h"
#include "support/until.h"

#define LABEL "containerd.io/distribution.source."
#define LAYER "some layer"

struct world {
	struct node *n;
	struct cairn_swarm *swarm;
	struct cairn_share *share;
	char socket[100];
	struct cairn_rpc_server *containerd;

	pthread_mutex_t mu;
	/* guarded by mu: what containerd answers */
	const char *ns, *key, *value; /* key NULL: there is no label yet */
	unsigned asked;
};

static enum cairn_code serve_info(void *arg, struct cairn_call *call, const void *request,
				  void *response, struct cairn_err *err)
{
	struct world *w = arg;
	const Containerd__Services__Content__V1__InfoRequest *req = request;
	Containerd__Services__Content__V1__InfoResponse *resp = response;
	const char *ns = cairn_call_header(call, "containerd-namespace");
	pthread_mutex_lock(&w->mu);
	w->asked++;
	bool found = ns != NULL && w->ns != NULL && strcmp(ns, w->ns) == 0;
	const char *key = w->key, *value = w->value;
	pthread_mutex_unlock(&w->mu);
	if (!found) return cairn_err_set(err, CAIRN_NOT_FOUND, "not here");
	resp->info = cairn_call_alloc(call, sizeof(*resp->info));
	containerd__services__content__v1__info__init(resp->info);
	resp->info->digest = cairn_call_strdup(call, req->digest);
	if (key == NULL) return CAIRN_OK;
	Cairn__Wire__Label *label = cairn_call_alloc(call, sizeof(*label));
	cairn__wire__label__init(label);
	label->key = cairn_call_strdup(call, key);
	label->value = cairn_call_strdup(call, value);
	resp->info->labels = cairn_call_alloc(call, sizeof(label));
	resp->info->labels[resp->info->n_labels++] = label;
	return CAIRN_OK;
}

static const struct cairn_method containerd_methods[] = {
	{.path = METHOD("Info"),
	 .request = TYPE_OF(info_request),
	 .response = TYPE_OF(info_response),
	 .unary = serve_info},
};

static void set_label(struct world *w, const char *ns, const char *key, const char *value)
{
	pthread_mutex_lock(&w->mu);
	w->ns = ns;
	w->key = key;
	w->value = value;
	pthread_mutex_unlock(&w->mu);
}

static unsigned asked(struct world *w)
{
	pthread_mutex_lock(&w->mu);
	unsigned n = w->asked;
	pthread_mutex_unlock(&w->mu);
	return n;
}

static int set_up(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	pthread_mutex_init(&w->mu, NULL);
	w->n = node_new(true, false);
	w->swarm = fake_swarm_new(CAIRN_WANT_FAILED);
	snprintf(w->socket, sizeof(w->socket), "%s/c.sock", w->n->dir);
	OK(cairn_rpc_server_new(w->n->rpc, &w->containerd, &node_err));
	cairn_rpc_server_add(w->containerd, containerd_methods, CAIRN_LEN(containerd_methods), w);
	OK(cairn_rpc_server_listen_unix(w->containerd, w->socket, &node_err));
	OK(cairn_rpc_server_start(w->containerd, &node_err));
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	cairn_share_stop(w->share);
	node_drain(w->n, 1000);
	cairn_share_free(w->share);
	(void)cairn_rpc_server_drain(w->containerd, 1000);
	cairn_rpc_server_free(w->containerd);
	node_free(w->n);
	fake_swarm_free(w->swarm);
	free(w);
	return 0;
}

/* Up to two patterns each; NULL: none. */
static void start(struct world *w, const char *const *allow, const char *const *deny)
{
	struct cairn_share_opts opts = {.cache = w->n->cache,
					.rpc = w->n->rpc,
					.containerd = w->socket,
					.allow = allow,
					.deny = deny};
	while (opts.n_allow < 2 && allow[opts.n_allow] != NULL) opts.n_allow++;
	while (opts.n_deny < 2 && deny[opts.n_deny] != NULL) opts.n_deny++;
	OK(cairn_share_new(&opts, &w->share, &node_err));
	cairn_share_tell(w->share, w->swarm);
	w->n->content.share = w->share;
}

static struct cairn_digest digest_number(unsigned i)
{
	return digest_of(&i, sizeof(i), CAIRN_SHA256);
}

static unsigned reconsidered(struct world *w)
{
	pthread_mutex_lock(&w->swarm->mu);
	unsigned n = w->swarm->reconsidered;
	pthread_mutex_unlock(&w->swarm->mu);
	return n;
}

static const char *const any[] = {"*", NULL}, *const none[] = {NULL, NULL},
			 *const team[] = {"registry.example/team/*", NULL},
			 *const secret[] = {"*/secret*", NULL};

/* ---- patterns ---- */

static void matches__as_fnmatch_has_it(void **state)
{
	(void)state;
	static const struct {
		const char *pattern, *name;
		bool fits;
	} cases[] = {
		{"*", "docker.io/library/alpine", true},
		{"docker.io/library/alpine", "docker.io/library/alpine", true},
		{"docker.io/library/alpine", "docker.io/library/alpine2", false},
		{"docker.io/*", "docker.io/library/alpine", true},
		{"docker.io/*", "mirror.docker.io/a", false},
		{"registry.example/team/*", "registry.example/team/a/b", true},
		{"registry.example/team/*", "registry.example/team", false},
		{"registry.example:5000/*", "registry.example:5000/a", true},
		{"*/secret", "registry.example/secret", true},
		{"r/app-?", "r/app-1", true},
		{"r/app-[0-9]", "r/app-x", false},
		{"", "a/b", false},
	};
	for (size_t i = 0; i < CAIRN_LEN(cases); i++) {
		if (cairn_share_matches(&cases[i].pattern, 1, cases[i].name) == cases[i].fits) {
			continue;
		}
		fail_msg("%s, %s", cases[i].pattern, cases[i].name);
	}
}

/* ---- what is learnt ---- */

static void share__is_nothing_by_default(void **state)
{
	struct world *w = *state;
	start(w, any, none);
	assert_null(w->share);
	struct cairn_digest d = digest_number(1);
	cairn_share_learn(w->share, &d, "r/a"); /* all of these take none */
	cairn_share_committed(w->share, "k8s.io", 6, &d);
	cairn_share_on_images(w->share, NULL, 0);
}

static void share__keeps_what_is_not_known(void **state)
{
	struct world *w = *state;
	start(w, team, none);
	struct cairn_digest d = digest_number(1);
	assert_false(cairn_share_may(w->share, &d));
	cairn_share_learn(w->share, &d, "registry.example/other/app");
	assert_false(cairn_share_may(w->share, &d));
	assert_int_equal(reconsidered(w), 0);
	/* one of its repositories is enough */
	cairn_share_learn(w->share, &d, "registry.example/team/app");
	assert_true(cairn_share_may(w->share, &d));
	assert_int_equal(reconsidered(w), 1);
	cairn_share_learn(w->share, &d, "registry.example/team/app");
	assert_int_equal(reconsidered(w), 1);
	struct cairn_digest other = digest_number(2);
	assert_false(cairn_share_may(w->share, &other));
}

static void share__lets_denial_win(void **state)
{
	struct world *w = *state;
	start(w, any, secret);
	struct cairn_digest d = digest_number(1);
	assert_false(cairn_share_may(w->share, &d));
	cairn_share_learn(w->share, &d, "r/open");
	assert_true(cairn_share_may(w->share, &d));
	cairn_share_learn(w->share, &d, "r/secret");
	assert_false(cairn_share_may(w->share, &d));
	cairn_share_learn(w->share, &d, "r/open");
	assert_false(cairn_share_may(w->share, &d));
	assert_int_equal(reconsidered(w), 2);
}

static void share__grows(void **state)
{
	struct world *w = *state;
	start(w, team, none);
	for (unsigned i = 0; i < 5000; i++) {
		struct cairn_digest d = digest_number(i);
		cairn_share_learn(w->share, &d,
				  i % 2 == 0 ? "registry.example/team/a" : "registry.example/b");
	}
	for (unsigned i = 0; i < 5000; i++) {
		struct cairn_digest d = digest_number(i);
		assert_int_equal(cairn_share_may(w->share, &d), i % 2 == 0);
	}
}

/* ---- containerd's labels ---- */

static char *make_manifest(char text[static 600])
{
	snprintf(text, 600,
		 "{\"schemaVersion\":2,"
		 "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
		 "\"config\":{\"digest\":\"%s\",\"size\":2},"
		 "\"layers\":[{\"digest\":\"%s\",\"size\":%zu}]}",
		 digest_text("{}", 2), digest_text(LAYER, strlen(LAYER)), strlen(LAYER));
	return text;
}

/* As a pull does it. */
static struct cairn_digest commit_manifest(struct world *w)
{
	char text[600], ref[200];
	make_manifest(text);
	snprintf(ref, sizeof(ref), "k8s.io/1/manifest-%s", digest_text(text, strlen(text)));
	OK(put_blob(w->n, ref, text, strlen(text)));
	return digest_of(text, strlen(text), CAIRN_SHA256);
}

static void label__is_read_after_a_commit(void **state)
{
	struct world *w = *state;
	start(w, team, none);
	set_label(w, "k8s.io", NULL, NULL); /* containerd writes it a little later */
	struct cairn_digest manifest = commit_manifest(w);
	struct cairn_digest layer = digest_of(LAYER, strlen(LAYER), CAIRN_SHA256);
	UNTIL(asked(w) >= 1);
	assert_false(cairn_share_may(w->share, &layer));
	set_label(w, "k8s.io", LABEL "registry.example", "other/app,team/app");
	UNTIL(cairn_share_may(w->share, &layer));
	assert_true(cairn_share_may(w->share, &manifest));
	UNTIL(reconsidered(w) >= 3); /* itself, config, layer */
}

static void label__of_a_denied_repository_keeps_all_of_it(void **state)
{
	struct world *w = *state;
	start(w, any, secret);
	struct cairn_digest layer = digest_of(LAYER, strlen(LAYER), CAIRN_SHA256);
	cairn_share_learn(w->share, &layer, "r/open");
	assert_true(cairn_share_may(w->share, &layer));
	set_label(w, "k8s.io", LABEL "registry.example", "secret/app");
	commit_manifest(w);
	UNTIL(!cairn_share_may(w->share, &layer));
}

static void label__of_a_listed_image_is_read(void **state)
{
	struct world *w = *state;
	struct cairn_digest manifest = commit_manifest(w); /* before our start */
	start(w, team, none);
	set_label(w, "k8s.io", LABEL "registry.example", "team/app");
	struct cairn_listed_image image = {(char *)(uintptr_t) "k8s.io",
					   (char *)(uintptr_t) "registry.example/team/app:v1",
					   manifest};
	cairn_share_on_images(w->share, &image, 1);
	UNTIL(cairn_share_may(w->share, &manifest));
	unsigned n = asked(w);
	cairn_share_on_images(w->share, &image, 1); /* known: not asked for again */
	cairn_share_stop(w->share);
	assert_int_equal(asked(w), n);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(matches__as_fnmatch_has_it),
		CASE(share__is_nothing_by_default),
		CASE(share__keeps_what_is_not_known),
		CASE(share__lets_denial_win),
		CASE(share__grows),
		CASE(label__is_read_after_a_commit),
		CASE(label__of_a_denied_repository_keeps_all_of_it),
		CASE(label__of_a_listed_image_is_read),
	};
	return cmocka_run_group_tests_name("plugin/share", tests, NULL, NULL);
}
