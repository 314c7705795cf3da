/* cairnctl: what an admin asks of cairnd, on its socket. Options, the verbs' table, the connection.
 *
 * SIGINT and SIGTERM are blocked everywhere but in one thread that waits for them: it cancels the
 * running call, which then ends as any cancelled call does, or, if none runs that could be
 * cancelled, ends the program. */
#include "cmd/cairnctl.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cmd/cairnctl_remote.h"

#define SOCKET_DEFAULT "/run/cairn/cairn.sock"
#define CALL_MS 15000  /* a call that has one answer */
#define OPTIONS_MAX 32 /* of one verb, with those of all */

static const struct ctl_verb *const verbs[] = {
	&ctl_status,  &ctl_ls,	   &ctl_explain, &ctl_versions,
	&ctl_preheat, &ctl_jobs,   &ctl_cancel,	 &ctl_gc,
	&ctl_prune,   &ctl_pin,	   &ctl_unpin,	 &ctl_verify,
	&ctl_peers,   &ctl_import, &ctl_export,	 &ctl_containerd_config,
	&ctl_certs,
};

/* Why a write to standard output failed, if that was in mid-stream: later calls change errno. */
static int write_errno;

/* The exit status, given that what was to be printed may not have arrived. */
static int end_output(int status)
{
	if (fflush(stdout) != 0 && write_errno == 0) write_errno = errno;
	if (!ferror(stdout) || status != CTL_DONE) return status;
	if (write_errno != EPIPE) fprintf(stderr, "cairnctl: write: %s\n", strerror(write_errno));
	return CTL_FAILED;
}

/* ---- Ctrl-C ---- */

static struct {
	pthread_mutex_t mu;
	struct cairn_call *running; /* guarded by mu */
	bool interrupted;	    /* guarded by mu */
} cancel = {.mu = PTHREAD_MUTEX_INITIALIZER};

static void *wait_for_signals(void *arg)
{
	(void)arg;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	for (;;) {
		int sig;
		if (sigwait(&set, &sig) != 0) continue;
		pthread_mutex_lock(&cancel.mu);
		if (cancel.running == NULL || cancel.interrupted) { /* or asked a second time */
			fprintf(stderr, "cairnctl: interrupted\n");
			_exit(CTL_FAILED);
		}
		cancel.interrupted = true;
		cairn_call_cancel(cancel.running);
		pthread_mutex_unlock(&cancel.mu);
	}
	return NULL;
}

static void set_running(struct cairn_call *call)
{
	pthread_mutex_lock(&cancel.mu);
	cancel.running = call;
	pthread_mutex_unlock(&cancel.mu);
}

bool ctl_interrupted(void)
{
	pthread_mutex_lock(&cancel.mu);
	bool yes = cancel.interrupted;
	pthread_mutex_unlock(&cancel.mu);
	return yes;
}

/* Before any other thread starts. */
static void catch_signals(void)
{
	pthread_t thread;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (pthread_create(&thread, NULL, wait_for_signals, NULL) == 0) pthread_detach(thread);
}

/* ---- the connection ---- */

/* Plain connect(2) first: its errno says what is wrong better than a gRPC status does. */
static enum cairn_code probe(const struct ctl *ctl, struct cairn_err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	if (strlen(ctl->socket) >= sizeof(addr.sun_path)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "the socket's path is longer than %zu bytes: %.120s…",
				     sizeof(addr.sun_path) - 1, ctl->socket);
	}
	memcpy(addr.sun_path, ctl->socket, strlen(ctl->socket) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) return cairn_err_sys(err, errno, "make a socket");
	int failed = connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0 ? errno : 0;
	close(fd);
	switch (failed) {
	case 0:
		return CAIRN_OK;
	case ENOENT:
		return cairn_err_set(
			err, CAIRN_UNAVAILABLE,
			"there is no socket %s: cairnd does not run, or its "
			"configuration has another \"listen\" (say which with --socket)",
			ctl->socket);
	case ECONNREFUSED:
		return cairn_err_set(err, CAIRN_UNAVAILABLE,
				     "nobody answers on %s: cairnd does not run (its log says why)",
				     ctl->socket);
	case EACCES:
	case EPERM:
		return cairn_err_set(err, CAIRN_PERMISSION_DENIED,
				     "%s may be used only by the user that runs cairnd: try sudo",
				     ctl->socket);
	default:
		return cairn_err_sys(err, failed, "connect to %s", ctl->socket);
	}
}

static enum cairn_code connect_to(struct ctl *ctl, struct cairn_err *err)
{
	char target[8192], here[4000] = "";
	enum cairn_code rc = CAIRN_OK;
	if (ctl->address == NULL) rc = probe(ctl, err);
	if (rc || ctl->channel != NULL) return rc;
	const struct cairn_rpc_opts opts = {.pollers = 1, .workers = 1};
	rc = cairn_rpc_new(&opts, &ctl->rpc, err);
	if (rc) return rc;
	if (ctl->address != NULL) return ctl_remote_open(ctl, err);
	if (ctl->socket[0] != '/' && getcwd(here, sizeof(here)) == NULL) {
		return cairn_err_sys(err, errno, "find the current directory");
	}
	snprintf(target, sizeof(target), "unix:%s%s%s", here, here[0] != '\0' ? "/" : "",
		 ctl->socket);
	return cairn_channel_new(ctl->rpc, target, NULL, &ctl->channel, err);
}

static char *method_path(const char *method, char buf[static 64])
{
	snprintf(buf, 64, "/cairn.v1.Cairn/%s", method);
	return buf;
}

enum cairn_code ctl_call(struct ctl *ctl, const char *method, const ProtobufCMessage *request,
			 const ProtobufCMessageDescriptor *type, ProtobufCMessage **ret,
			 struct cairn_err *err)
{
	char path[64];
	enum cairn_code rc = connect_to(ctl, err);
	if (rc) return rc;
	rc = cairn_channel_unary(ctl->channel, method_path(method, path), NULL, 0, CALL_MS, request,
				 type, ret, err);
	if (rc == CAIRN_DEADLINE_EXCEEDED) {
		rc = cairn_err_set(
			err, CAIRN_UNAVAILABLE, "cairnd on %s did not answer within %d s",
			ctl->address != NULL ? ctl->address : ctl->socket, CALL_MS / 1000);
	}
	if (rc == CAIRN_UNAVAILABLE && ctl->address != NULL) ctl_remote_explain(ctl, err);
	return rc ? err->code : rc;
}

/* One received message, decoded into memory of its own. */
static ProtobufCMessage *unpack(const struct cairn_msg *msg, const ProtobufCMessageDescriptor *type)
{
	const struct cairn_span *spans;
	size_t n = cairn_msg_spans(msg, &spans), len = 0;
	uint8_t *bytes = malloc(cairn_msg_len(msg) + 1);
	if (bytes == NULL) return NULL;
	for (size_t i = 0; i < n; len += spans[i++].len) {
		memcpy(bytes + len, spans[i].data, spans[i].len);
	}
	ProtobufCMessage *ret = protobuf_c_message_unpack(type, NULL, len, bytes);
	free(bytes);
	return ret;
}

/* Receive until the end, or until on_message has enough: *ret_enough. */
static enum cairn_code receive(struct cairn_call *call, const ProtobufCMessageDescriptor *type,
			       ctl_message_fn *on_message, void *arg, bool *ret_enough,
			       struct cairn_err *err)
{
	struct cairn_msg *msg;
	while (!*ret_enough && cairn_call_recv(call, &msg) == CAIRN_RECV_MSG) {
		ProtobufCMessage *decoded = unpack(msg, type);
		cairn_msg_free(msg);
		if (decoded == NULL) {
			return cairn_err_set(err, CAIRN_INTERNAL,
					     "cairnd sent a message that cannot be decoded; are "
					     "cairnd and cairnctl of the same version?");
		}
		errno = 0;
		*ret_enough = !on_message(arg, decoded);
		if (*ret_enough && ferror(stdout)) write_errno = errno;
		protobuf_c_message_free_unpacked(decoded, NULL);
	}
	return CAIRN_OK;
}

enum cairn_code ctl_stream(struct ctl *ctl, const char *method, const ProtobufCMessage *request,
			   const ProtobufCMessageDescriptor *type, ctl_message_fn *on_message,
			   void *arg, struct cairn_err *err)
{
	char path[64];
	struct cairn_call *call;
	struct cairn_err ended;
	bool enough = false;
	enum cairn_code rc = connect_to(ctl, err);
	if (rc == CAIRN_OK) {
		rc = cairn_channel_open(ctl->channel, method_path(method, path), NULL, 0, 0, &call,
					err);
	}
	if (rc) return rc;
	set_running(call);
	/* A send fails when the call is over; then its status says more than the send does. */
	if (cairn_call_send(call, request, err) == CAIRN_OK &&
	    cairn_call_half_close(call, err) == CAIRN_OK) {
		rc = receive(call, type, on_message, arg, &enough, err);
	}
	set_running(NULL);
	if (enough || rc) cairn_call_cancel(call);
	enum cairn_code end = cairn_call_finish(call, &ended);
	if (rc || enough || end == CAIRN_OK) return rc;
	*err = ended;
	if (ctl_interrupted()) {
		return cairn_err_set(err, CAIRN_CANCELLED, "interrupted; cairnd was told to stop");
	}
	if (end == CAIRN_UNAVAILABLE && ctl->address != NULL) ctl_remote_explain(ctl, err);
	return err->code;
}

/* ---- telling ---- */

int ctl_fail(const struct ctl *ctl, const struct cairn_err *err)
{
	(void)ctl;
	fflush(stdout);
	fprintf(stderr, "cairnctl: %s\n", err->msg);
	return CTL_FAILED;
}

int ctl_usage(const struct ctl *ctl, const char *fmt, ...)
{
	va_list args;
	fprintf(stderr, "cairnctl: ");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\nTry: cairnctl %s%s--help\n", ctl->verb != NULL ? ctl->verb->name : "",
		ctl->verb != NULL ? " " : "");
	return CTL_USAGE;
}

void ctl_print_json(json_t *object)
{
	json_dumpf(object, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(object);
}

static void print_help(void)
{
	printf("Usage: cairnctl [--socket PATH | --address HOST:PORT …] [--json] VERB "
	       "[ARGUMENTS]\n\n"
	       "Asks cairnd, containerd's content store on this node (or another), what it holds, "
	       "and "
	       "tells it what to do.\n\nVerbs:\n");
	for (size_t i = 0; i < CAIRN_LEN(verbs); i++) {
		printf("  %-18s %s\n", verbs[i]->name, verbs[i]->summary);
	}
	printf("\nOptions:\n"
	       "  --socket PATH      cairnd's socket (default " SOCKET_DEFAULT ")\n"
	       "  --address HOST:PORT\n"
	       "                     cairnd on another machine: its port for other nodes; with\n"
	       "  --tls-cert FILE    an admin's certificate, which p2p.admins there names,\n"
	       "  --tls-key FILE     the key of it, and\n"
	       "  --tls-ca FILE      the authority of the cluster\n"
	       "  --tls-server-name NAME\n"
	       "                     the name in that node's certificate, if it is not HOST\n"
	       "  --json             print one JSON object a line\n"
	       "  --help, --version\n\n"
	       "cairnctl VERB --help says more about a verb. Exit status: 0 done, 1 failed, 2 "
	       "wrong usage.\n");
}

static void print_verb_help(const struct ctl_verb *verb)
{
	printf("Usage: cairnctl [--socket PATH] [--json] %s%s%s\n\n%s\n", verb->name,
	       verb->arguments[0] != '\0' ? " " : "", verb->arguments, verb->help);
}

/* ---- options ---- */

enum {
	OPT_SOCKET = 1000,
	OPT_ADDRESS,
	OPT_TLS_CERT,
	OPT_TLS_KEY,
	OPT_TLS_CA,
	OPT_TLS_SERVER_NAME,
	OPT_JSON,
	OPT_HELP,
	OPT_VERSION
};

static const struct option common[] = {
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"address", required_argument, NULL, OPT_ADDRESS},
	{"tls-cert", required_argument, NULL, OPT_TLS_CERT},
	{"tls-key", required_argument, NULL, OPT_TLS_KEY},
	{"tls-ca", required_argument, NULL, OPT_TLS_CA},
	{"tls-server-name", required_argument, NULL, OPT_TLS_SERVER_NAME},
	{"json", no_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
};

/* Where cairnd is; at the end, whether that goes together. */
static void take_address(struct ctl *ctl, int option)
{
	switch (option) {
	case OPT_ADDRESS:
		ctl->address = optarg;
		break;
	case OPT_TLS_CERT:
		ctl->tls_cert = optarg;
		break;
	case OPT_TLS_KEY:
		ctl->tls_key = optarg;
		break;
	case OPT_TLS_CA:
		ctl->tls_ca = optarg;
		break;
	default:
		ctl->tls_server_name = optarg;
		break;
	}
}

static void end_options(struct ctl *ctl)
{
	int status = ctl->verb != NULL ? ctl_remote_check(ctl) : 0;
	if (status != 0) exit(status);
	if (ctl->verb != NULL && ctl->socket == NULL) ctl->socket = SOCKET_DEFAULT;
}

int ctl_getopt(struct ctl *ctl, int argc, char **argv, const struct option *own)
{
	struct option all[OPTIONS_MAX + 1] = {0};
	size_t n = 0;
	for (size_t i = 0; i < CAIRN_LEN(common); i++) all[n++] = common[i];
	for (; own->name != NULL && n < OPTIONS_MAX; own++) all[n++] = *own;
	/* Before the verb, options end at the first argument. */
	const char *order = ctl->verb == NULL ? "+h" : "h";
	for (;;) {
		int c = getopt_long(argc, argv, order, all, NULL);
		switch (c) {
		case OPT_SOCKET:
			if (optarg[0] == '\0') exit(ctl_usage(ctl, "--socket needs a path"));
			ctl->socket = optarg;
			break;
		case OPT_ADDRESS:
		case OPT_TLS_CERT:
		case OPT_TLS_KEY:
		case OPT_TLS_CA:
		case OPT_TLS_SERVER_NAME:
			take_address(ctl, c);
			break;
		case OPT_JSON:
			ctl->json = true;
			break;
		case 'h':
		case OPT_HELP:
			if (ctl->verb != NULL) {
				print_verb_help(ctl->verb);
			} else {
				print_help();
			}
			exit(end_output(CTL_DONE));
		case OPT_VERSION:
			printf("cairnctl %s\n", CAIRN_VERSION);
			exit(end_output(CTL_DONE));
		case '?':
			fprintf(stderr, "Try: cairnctl %s%s--help\n",
				ctl->verb != NULL ? ctl->verb->name : "",
				ctl->verb != NULL ? " " : "");
			exit(CTL_USAGE);
		case -1:
			end_options(ctl);
			return -1;
		default:
			return c;
		}
	}
}

static int run(struct ctl *ctl, int argc, char **argv)
{
	static const struct option none[] = {{0}};
	(void)ctl_getopt(ctl, argc, argv, none);
	if (optind == argc) return ctl_usage(ctl, "which verb?");
	const char *name = argv[optind];
	for (size_t i = 0; i < CAIRN_LEN(verbs) && ctl->verb == NULL; i++) {
		if (strcmp(verbs[i]->name, name) == 0) ctl->verb = verbs[i];
	}
	if (ctl->verb == NULL) return ctl_usage(ctl, "there is no verb \"%s\"", name);
	argc -= optind;
	argv += optind;
	static char program[] = "cairnctl"; /* what getopt's own messages begin with */
	argv[0] = program;
	optind = 0; /* start anew, at the verb */
	return ctl->verb->run(ctl, argc, argv);
}

int main(int argc, char **argv)
{
	struct ctl ctl = {.terminal = isatty(STDOUT_FILENO) != 0};
	catch_signals();
	int status = run(&ctl, argc, argv);
	cairn_channel_free(ctl.channel);
	cairn_rpc_free(ctl.rpc);
	return end_output(status);
}
