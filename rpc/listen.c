/* Unix sockets are accepted here, not by gRPC: so the file has mode 0600 from its first instant, is
 * unlinked only while it is ours, and connections get large socket buffers (which streams gain
 * 15-40 % from). */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <grpc/grpc_posix.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "rpc/server.h"

#define SOCKET_BUFFER_BYTES (4 << 20) /* the kernel takes less if net.core.*mem_max says so */
#define ACCEPT_PAUSE_MS 100	      /* when descriptors or memory ran out */

static_assert(sizeof(((struct cairn_unix_listener *)0)->path) ==
		      sizeof(((struct sockaddr_un *)0)->sun_path),
	      "server.h");

/* ---- the socket file ------------------------------------------------------------------------- */

static enum cairn_code remove_stale(const char *path, struct cairn_err *err)
{
	struct stat st;
	if (lstat(path, &st) != 0) {
		if (errno == ENOENT) return CAIRN_OK;
		return cairn_err_sys(err, errno, "listen on %s", path);
	}
	if (!S_ISSOCK(st.st_mode)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "listen on %s: there is something else than a socket: remove "
				     "it, or choose another path",
				     path);
	}
	if (unlink(path) != 0 && errno != ENOENT) {
		return cairn_err_sys(err, errno, "listen on %s: remove the stale socket", path);
	}
	return CAIRN_OK;
}

static enum cairn_code make_socket(struct cairn_unix_listener *l, struct cairn_err *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	memcpy(addr.sun_path, l->path, sizeof(addr.sun_path));
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0) return cairn_err_sys(err, errno, "listen on %s: socket", l->path);
	/* Linux makes the file with the mode of the unbound socket, less the umask: there is no
	 * instant at which others may connect, and no process-wide umask to change. */
	bool made = fchmod(l->fd, 0600) == 0 &&
		    bind(l->fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0;
	if (!made || chmod(l->path, 0600) != 0 || lstat(l->path, &st) != 0 ||
	    listen(l->fd, SOMAXCONN) != 0) {
		enum cairn_code rc = cairn_err_sys(err, errno, "listen on %s", l->path);
		if (made) (void)unlink(l->path);
		close(l->fd);
		return rc;
	}
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	return CAIRN_OK;
}

enum cairn_code cairn_rpc_server_listen_unix(struct cairn_rpc_server *server, const char *path,
					     struct cairn_err *err)
{
	assert(!server->started && server->n_listeners < CAIRN_RPC_LISTENERS_MAX);
	struct cairn_unix_listener *l = &server->listeners[server->n_listeners];
	size_t n = strlen(path);
	if (n == 0 || n >= sizeof(l->path)) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "listen on %s: the path has %zu bytes, a unix socket's has 1 "
				     "to %zu",
				     path, n, sizeof(l->path) - 1);
	}
	enum cairn_code rc = remove_stale(path, err);
	if (rc) return rc;
	*l = (struct cairn_unix_listener){.fd = -1};
	memcpy(l->path, path, n);
	rc = make_socket(l, err);
	if (rc) return rc;
	server->n_listeners++;
	return CAIRN_OK;
}

void cairn_rpc_server_on_connect(struct cairn_rpc_server *server, void (*fn)(void *arg, pid_t pid),
				 void *arg)
{
	assert(!server->started);
	server->on_connect = fn;
	server->on_connect_arg = arg;
}

void cairn_listeners_unlink(struct cairn_rpc_server *server)
{
	for (size_t i = 0; i < server->n_listeners; i++) {
		const struct cairn_unix_listener *l = &server->listeners[i];
		struct stat st;
		if (lstat(l->path, &st) != 0) continue;
		if (st.st_dev == l->dev && st.st_ino == l->ino) (void)unlink(l->path);
	}
}

void cairn_listeners_close(struct cairn_rpc_server *server)
{
	for (size_t i = 0; i < server->n_listeners; i++) close(server->listeners[i].fd);
	server->n_listeners = 0;
}

/* ---- the accept thread ----------------------------------------------------------------------- */

static pid_t peer_pid(int fd)
{
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 ? peer.pid : 0;
}

/* Accept one connection. False: pause, the machine is out of something. */
static bool accept_one(struct cairn_rpc_server *server, const struct cairn_unix_listener *l)
{
	int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return true;
		cairn_log(CAIRN_LOG_WARN, "rpc_accept", CAIRN_STR("socket", l->path),
			  CAIRN_STR("err", strerrordesc_np(errno)));
		return false;
	}
	if (server->on_connect != NULL) server->on_connect(server->on_connect_arg, peer_pid(fd));
	int bytes = SOCKET_BUFFER_BYTES;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	grpc_server_add_channel_from_fd(server->server, fd, server->plain);
	return true;
}

void cairn_rpc_server_adopt(struct cairn_rpc_server *server, int fd)
{
	assert(server->started && !cairn_server_draining(server));
	(void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	grpc_server_add_channel_from_fd(server->server, fd, server->plain);
}

static void *accept_loop(void *arg)
{
	struct cairn_rpc_server *server = arg;
	struct pollfd fds[1 + CAIRN_RPC_LISTENERS_MAX];
	bool pause = false;
	fds[0] = (struct pollfd){.fd = server->stop_fd, .events = POLLIN};
	for (size_t i = 0; i < server->n_listeners; i++) {
		fds[1 + i] = (struct pollfd){.fd = server->listeners[i].fd, .events = POLLIN};
	}
	for (;;) {
		nfds_t n = pause ? 1 : 1 + server->n_listeners;
		if (poll(fds, n, pause ? ACCEPT_PAUSE_MS : -1) < 0 && errno != EINTR) abort();
		if (fds[0].revents != 0) return NULL;
		if (pause) {
			pause = false;
			continue;
		}
		for (size_t i = 0; i < server->n_listeners && !pause; i++) {
			if (fds[1 + i].revents == 0) continue;
			pause = !accept_one(server, &server->listeners[i]);
		}
	}
}

enum cairn_code cairn_accept_start(struct cairn_rpc_server *server, struct cairn_err *err)
{
	if (server->n_listeners == 0) return CAIRN_OK;
	int rc = cairn_thread_start(&server->acceptor, accept_loop, server);
	if (rc != 0) return cairn_err_sys(err, rc, "serve: start the accept thread");
	server->accepting = true;
	return CAIRN_OK;
}

void cairn_accept_stop(struct cairn_rpc_server *server)
{
	if (!server->accepting) return;
	(void)eventfd_write(server->stop_fd, 1);
	pthread_join(server->acceptor, NULL);
	server->accepting = false;
}
