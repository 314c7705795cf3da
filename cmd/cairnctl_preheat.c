/* cairnctl preheat: what is to be got, and as whom.
 *
 * A password comes on standard input and goes nowhere but into the request. One that stands in the
 * command line has been seen by everybody who can list processes: it is refused, and not repeated
 * in the message. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "cmd/cairnctl.h"
#include "cmd/cairnctl_format.h"
#include "cmd/cairnctl_job.h"

#define SECRET_MAX 65536 /* bytes: tokens of some registries have many thousands */
#define PRIORITY_MAX 100
#define UNTIL_MAX_S (7 * 86400)

/* Owned strings. */
struct strings {
	char **items;
	size_t n, cap;
};

struct order {
	struct ctl *ctl;
	Cairn__V1__PreheatRequest request;
	Cairn__V1__Login login;
	Cairn__V1__Fleet fleet;
	bool staged; /* an option that is only for several nodes */
	struct strings references, platforms, namespaces;
	char *username;
	char *secret; /* what came on standard input */
	bool password, identity_token, stdin_list;
};

enum {
	OPT_PLATFORM = 'A', /* not the h of --help */
	OPT_PRIORITY,
	OPT_KEEP_FOR,
	OPT_FORCE,
	OPT_DETACH,
	OPT_REGISTER,
	OPT_NAMESPACE,
	OPT_USERNAME,
	OPT_PASSWORD_STDIN,
	OPT_IDENTITY_TOKEN_STDIN,
	OPT_FILE,
	OPT_NODES,
	OPT_BATCH,
	OPT_PAUSE,
	OPT_MAX_FAILURES,
	OPT_UNTIL,
	OPT_PASSWORD, /* these two are there to be refused: getopt would take them for short forms
		       */
	OPT_IDENTITY_TOKEN,
};

static const struct option own_options[] = {
	{"platform", required_argument, NULL, OPT_PLATFORM},
	{"priority", required_argument, NULL, OPT_PRIORITY},
	{"keep-for", required_argument, NULL, OPT_KEEP_FOR},
	{"force", no_argument, NULL, OPT_FORCE},
	{"detach", no_argument, NULL, OPT_DETACH},
	{"register", no_argument, NULL, OPT_REGISTER},
	{"namespace", required_argument, NULL, OPT_NAMESPACE},
	{"username", required_argument, NULL, OPT_USERNAME},
	{"password-stdin", no_argument, NULL, OPT_PASSWORD_STDIN},
	{"identity-token-stdin", no_argument, NULL, OPT_IDENTITY_TOKEN_STDIN},
	{"file", required_argument, NULL, OPT_FILE},
	{"nodes", required_argument, NULL, OPT_NODES},
	{"batch", required_argument, NULL, OPT_BATCH},
	{"pause", required_argument, NULL, OPT_PAUSE},
	{"max-failures", required_argument, NULL, OPT_MAX_FAILURES},
	{"until", required_argument, NULL, OPT_UNTIL},
	{"password", required_argument, NULL, OPT_PASSWORD},
	{"identity-token", required_argument, NULL, OPT_IDENTITY_TOKEN},
	{0}};

static void add(struct strings *s, const char *text)
{
	if (s->n == s->cap) {
		s->cap = s->cap > 0 ? 2 * s->cap : 16;
		char **more = realloc(s->items, s->cap * sizeof(char *));
		if (more == NULL) abort();
		s->items = more;
	}
	char *copy = strdup(text);
	if (copy == NULL) abort();
	s->items[s->n++] = copy;
}

static void strings_fini(struct strings *s)
{
	for (size_t i = 0; i < s->n; i++) free(s->items[i]);
	free(s->items);
}

static void order_fini(struct order *o)
{
	if (o->secret != NULL) explicit_bzero(o->secret, SECRET_MAX);
	free(o->secret);
	strings_fini(&o->references);
	strings_fini(&o->platforms);
	strings_fini(&o->namespaces);
}

/* ---- images ---- */

/* where: "" or as "FILE, line 7: ". The name is not repeated if there may be a secret in it. */
static int add_reference(struct order *o, const char *where, const char *reference)
{
	if (reference[0] == '\0') {
		return ctl_usage(o->ctl, "%sthe name of an image is empty", where);
	}
	if (ctl_has_credentials(reference)) {
		return ctl_usage(
			o->ctl,
			"%sthe name of an image has a user or a password before a @ (it is "
			"not shown here); give them with --username and --password-stdin",
			where);
	}
	add(&o->references, reference);
	return CTL_DONE;
}

static int add_line(struct order *o, const char *path, size_t number, char *line, size_t len)
{
	char where[CTL_LINE], *name;
	snprintf(where, sizeof(where), "%.1000s, line %zu: ", path, number);
	if (strlen(line) != len || !ctl_parse_list_line(line, &name)) {
		return ctl_usage(o->ctl, "%sone image a line, and # before a comment", where);
	}
	return name != NULL ? add_reference(o, where, name) : CTL_DONE;
}

static int add_lines(struct order *o, const char *path, FILE *file)
{
	char *line = NULL;
	size_t cap = 0, number = 0;
	int status = CTL_DONE;
	errno = 0;
	for (ssize_t n; status == CTL_DONE && (n = getline(&line, &cap, file)) >= 0;) {
		status = add_line(o, path, ++number, line, (size_t)n);
	}
	if (status == CTL_DONE && (ferror(file) || errno == ENOMEM)) {
		struct cairn_err err;
		(void)cairn_err_sys(&err, errno, "read %.1000s", path);
		status = ctl_fail(o->ctl, &err);
	}
	free(line);
	return status;
}

static int add_file(struct order *o, const char *path)
{
	if (strcmp(path, "-") == 0) {
		o->stdin_list = true;
		return add_lines(o, "standard input", stdin);
	}
	FILE *file = fopen(path, "re");
	if (file == NULL) {
		struct cairn_err err;
		(void)cairn_err_sys(&err, errno, "open %.1000s", path);
		return ctl_fail(o->ctl, &err);
	}
	const int status = add_lines(o, path, file);
	fclose(file);
	return status;
}

/* ---- who asks ---- */

/* One line of standard input, without its end, into o->secret. */
static int read_secret(struct order *o, const char *option)
{
	size_t n = 0;
	o->secret = calloc(1, SECRET_MAX);
	if (o->secret == NULL) abort();
	while (n < SECRET_MAX) {
		const ssize_t got = read(STDIN_FILENO, o->secret + n, SECRET_MAX - n);
		if (got < 0 && errno == EINTR) continue;
		if (got < 0) {
			struct cairn_err err;
			(void)cairn_err_sys(&err, errno, "%s: read standard input", option);
			return ctl_fail(o->ctl, &err);
		}
		if (got == 0) break;
		n += (size_t)got;
	}
	if (n == SECRET_MAX) {
		return ctl_usage(o->ctl, "%s: more than %d bytes on standard input", option,
				 SECRET_MAX - 1);
	}
	if (n > 0 && o->secret[n - 1] == '\n') o->secret[--n] = '\0';
	if (n > 0 && o->secret[n - 1] == '\r') o->secret[--n] = '\0';
	if (n == 0) return ctl_usage(o->ctl, "%s: nothing came on standard input", option);
	if (strlen(o->secret) != n || strpbrk(o->secret, "\r\n") != NULL) {
		return ctl_usage(o->ctl, "%s: standard input must have one line", option);
	}
	return CTL_DONE;
}

static int set_login(struct order *o)
{
	if (o->username == NULL && !o->password && !o->identity_token) return CTL_DONE;
	if (o->identity_token && (o->password || o->username != NULL)) {
		return ctl_usage(o->ctl, "--identity-token-stdin stands alone, without --username "
					 "and --password-stdin");
	}
	if (!o->identity_token && (o->username == NULL || !o->password)) {
		return ctl_usage(o->ctl, "--username and --password-stdin belong together");
	}
	if (o->stdin_list) {
		return ctl_usage(o->ctl, "--file - and %s cannot both read standard input",
				 o->password ? "--password-stdin" : "--identity-token-stdin");
	}
	const int status =
		read_secret(o, o->password ? "--password-stdin" : "--identity-token-stdin");
	if (status != CTL_DONE) return status;
	if (o->password) {
		o->login.username = o->username;
		o->login.password = o->secret;
	} else {
		o->login.identity_token = o->secret;
	}
	o->request.login = &o->login;
	return CTL_DONE;
}

/* ---- options ---- */

static int take_number(struct order *o, int c)
{
	int64_t n;
	if (c == OPT_KEEP_FOR) {
		if (ctl_parse_span(optarg, &o->request.keep_for_seconds)) return CTL_DONE;
		return ctl_usage(o->ctl,
				 "--keep-for is a number with s, m, h or d, from 1s to 3650d (such "
				 "as 72h), not \"%s\"",
				 optarg);
	}
	if (!ctl_parse_integer(optarg, -PRIORITY_MAX, PRIORITY_MAX, &n)) {
		return ctl_usage(o->ctl, "--priority is a number from -%d to %d, not \"%s\"",
				 PRIORITY_MAX, PRIORITY_MAX, optarg);
	}
	o->request.priority = (int32_t)n;
	return CTL_DONE;
}

static int take_amount(struct order *o, const char *option, char **ret)
{
	if (!ctl_valid_amount(optarg)) {
		return ctl_usage(o->ctl,
				 "%s is a number of nodes or a share of them such as 30%%, "
				 "not \"%s\"",
				 option, optarg);
	}
	*ret = optarg;
	return CTL_DONE;
}

/* What is for several nodes. */
static int take_fleet_option(struct order *o, int c)
{
	const int64_t now_s = cairn_real_ns(&cairn_clock_system) / CAIRN_NS_PER_S;
	o->staged = o->staged || c != OPT_NODES;
	switch (c) {
	case OPT_NODES:
		if (optarg[0] == '\0') return ctl_usage(o->ctl, "--nodes needs nodes");
		o->fleet.nodes = optarg;
		o->request.fleet = &o->fleet;
		return CTL_DONE;
	case OPT_BATCH:
		return take_amount(o, "--batch", &o->fleet.batch);
	case OPT_MAX_FAILURES:
		return take_amount(o, "--max-failures", &o->fleet.max_failures);
	case OPT_PAUSE:
		if (ctl_parse_span(optarg, &o->fleet.pause_seconds)) return CTL_DONE;
		return ctl_usage(o->ctl,
				 "--pause is a number with s, m or h, from 1s to 24h, not \"%s\"",
				 optarg);
	default:
		if (ctl_parse_until(optarg, now_s, UNTIL_MAX_S, &o->fleet.until_seconds)) {
			return CTL_DONE;
		}
		return ctl_usage(o->ctl,
				 "--until is how long, such as 2h, or a time that is to come, such "
				 "as 2026-01-31T08:00:00Z, within 7 days, not \"%s\"",
				 optarg);
	}
}

static int take_option(struct order *o, int c)
{
	switch (c) {
	case OPT_PLATFORM:
		if (!ctl_valid_platform(optarg)) {
			return ctl_usage(
				o->ctl,
				"--platform is os/arch, os/arch/variant, node or all, not \"%s\"",
				optarg);
		}
		add(&o->platforms, optarg);
		return CTL_DONE;
	case OPT_PRIORITY:
	case OPT_KEEP_FOR:
		return take_number(o, c);
	case OPT_NAMESPACE:
		if (optarg[0] == '\0') return ctl_usage(o->ctl, "--namespace needs a name");
		add(&o->namespaces, optarg);
		return CTL_DONE;
	case OPT_USERNAME:
		if (optarg[0] == '\0') return ctl_usage(o->ctl, "--username needs a name");
		o->username = optarg;
		return CTL_DONE;
	case OPT_FILE:
		return add_file(o, optarg);
	case OPT_NODES:
	case OPT_BATCH:
	case OPT_PAUSE:
	case OPT_MAX_FAILURES:
	case OPT_UNTIL:
		return take_fleet_option(o, c);
	default:
		return ctl_usage(o->ctl,
				 "a password or a token is no argument, where others see it: "
				 "give it with --password-stdin or --identity-token-stdin");
	}
}

static int take_options(struct order *o, int argc, char **argv)
{
	for (int c; (c = ctl_getopt(o->ctl, argc, argv, own_options)) != -1;) {
		int status = CTL_DONE;
		if (c == OPT_FORCE) {
			o->request.force = true;
		} else if (c == OPT_DETACH) {
			o->request.detach = true;
		} else if (c == OPT_REGISTER) {
			o->request.register_ = true;
		} else if (c == OPT_PASSWORD_STDIN) {
			o->password = true;
		} else if (c == OPT_IDENTITY_TOKEN_STDIN) {
			o->identity_token = true;
		} else {
			status = take_option(o, c);
		}
		if (status != CTL_DONE) return status;
	}
	for (int i = optind; i < argc; i++) {
		const int status = add_reference(o, "", argv[i]);
		if (status != CTL_DONE) return status;
	}
	if (o->references.n == 0) return ctl_usage(o->ctl, "preheat takes images, at least one");
	if (o->staged && o->request.fleet == NULL) {
		return ctl_usage(o->ctl,
				 "--batch, --pause, --max-failures and --until go with --nodes");
	}
	return set_login(o);
}

/* ---- a job that goes on alone ---- */

struct detached {
	const struct ctl *ctl;
	bool any;
};

static bool on_detached(void *arg, const ProtobufCMessage *msg)
{
	struct detached *d = arg;
	const Cairn__V1__Job *job = ((const Cairn__V1__JobProgress *)msg)->job;
	char id[CTL_LINE];
	if (job == NULL || d->any) return true;
	d->any = true;
	if (d->ctl->json) {
		ctl_print_json(ctl_json_job(job));
	} else {
		printf("%s\n", ctl_format_plain(job->id, id, sizeof(id)));
	}
	return true; /* to the end: who goes away early cancels the job */
}

static int detach(struct order *o)
{
	struct detached d = {.ctl = o->ctl};
	struct cairn_err err;
	enum cairn_code rc =
		ctl_stream(o->ctl, "Preheat", &o->request.base,
			   &cairn__v1__job_progress__descriptor, on_detached, &d, &err);
	if (rc == CAIRN_OK && !d.any) {
		rc = cairn_err_set(&err, CAIRN_INTERNAL, "cairnd did not say which job it is");
	}
	return rc ? ctl_fail(o->ctl, &err) : CTL_DONE;
}

static int run_preheat(struct ctl *ctl, int argc, char **argv)
{
	struct order o = {.ctl = ctl};
	cairn__v1__preheat_request__init(&o.request);
	cairn__v1__login__init(&o.login);
	cairn__v1__fleet__init(&o.fleet);
	int status = take_options(&o, argc, argv);
	if (status == CTL_DONE) {
		o.request.references = o.references.items;
		o.request.n_references = o.references.n;
		o.request.platforms = o.platforms.items;
		o.request.n_platforms = o.platforms.n;
		o.request.namespaces = o.namespaces.items;
		o.request.n_namespaces = o.namespaces.n;
		status = o.request.detach ? detach(&o)
					  : ctl_follow_job(ctl, "Preheat", &o.request.base, true);
	}
	order_fini(&o);
	return status;
}

const struct ctl_verb ctl_preheat = {
	.name = "preheat",
	.arguments = "REF... [OPTIONS]",
	.summary = "get images from their registries before anybody pulls them",
	.help = "Gets all blobs of the images that are not here. REF is written as for a pull:\n"
		"busybox is docker.io/library/busybox:latest. Exit status 0 only if every blob of\n"
		"every platform that was asked for is here, its digest checked; else what failed, "
		"and\n"
		"why, is on standard error. Ctrl-C cancels the job.\n\n"
		"  --file LIST            also the images in the file LIST (-: standard input): "
		"one "
		"a\n"
		"                         line, # before a comment; may be repeated\n"
		"  --platform PLATFORM    os/arch, os/arch/variant, node (the node's own) or all; "
		"may be\n"
		"                         repeated (default: node)\n"
		"  --namespace NS         the namespace of containerd that the images are for; may "
		"be\n"
		"                         repeated (default: k8s.io)\n"
		"  --register             also make the images known to containerd\n"
		"  --keep-for TIME        garbage collection keeps the images so long, from 1s to "
		"3650d:\n"
		"                         a number with s, m, h or d, such as 72h (default: as any "
		"other)\n"
		"  --priority N           of jobs that wait, the highest begins first; -100 to "
		"100\n"
		"                         (default 0)\n"
		"  --force                ask the registry also for what a tag is known to stand "
		"for\n"
		"  --detach               print the job's id, and let the job go on alone\n"
		"  --username USER --password-stdin\n"
		"                         log in as USER, with the password on standard input\n"
		"  --identity-token-stdin log in with the token on standard input\n\n"
		"  --nodes NODES          on these nodes of the cluster: all, a number, a share "
		"such "
		"as 30%,\n"
		"                         names separated by commas, or label=value; they cannot "
		"be "
		"given\n"
		"                         a login\n"
		"  --batch N|P%           so many nodes at a time (default: all at once)\n"
		"  --pause TIME           wait so long between two batches\n"
		"  --max-failures N|P%    begin no further batch when more nodes than that have "
		"failed\n"
		"                         (default: go on)\n"
		"  --until TIME           so long, such as 2h, or until 2026-01-31T08:00:00Z, "
		"nodes "
		"that\n"
		"                         join or come back are caught up; the job ends then\n\n"
		"In a pipe, a line has fields separated by tabs. \"blob\", one that ended: digest, "
		"state,\n"
		"bytes here, bytes in all, source, error. \"progress\": blobs done, of, bytes "
		"done, "
		"of,\n"
		"bytes a second, seconds left. At the end \"image\": name, state, digest, error; "
		"and\n"
		"\"job\": id, state, age in seconds, images done, of, blobs done, of, bytes done, "
		"of,\n"
		"bytes from registries, error. With --nodes \"node\", one that ended: name, state, "
		"bytes\n"
		"from registries, from peers, seconds, blobs done, of, failed, error.",
	.run = run_preheat,
};
