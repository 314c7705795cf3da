package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/content/local"
	"github.com/containerd/containerd/services/content/contentserver"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

var cairndPath = flag.String("cairnd", "", "the cairnd to test; none: containerd's reference server")

const (
	maxMessage   = 16 << 20 // containerd's limit for its own sockets and proxy plugins
	startTimeout = 20 * time.Second
	stopTimeout  = 30 * time.Second
)

// A content service on a unix socket, and a connection to it made as containerd makes one.
type server struct {
	conn *grpc.ClientConn
	stop func() error
}

// The same server for somebody who may not stop it.
func (s *server) borrow() *server {
	return &server{conn: s.conn, stop: func() error { return nil }}
}

func startServer(dir string) (*server, error) {
	if *cairndPath == "" {
		return startReference(dir)
	}
	return startCairnd(dir)
}

// What services/server/server.go of containerd does for [proxy_plugins].
func dial(socket string) (*grpc.ClientConn, error) {
	b := backoff.DefaultConfig
	b.MaxDelay = 3 * time.Second
	return grpc.Dial(socket,
		grpc.WithInsecure(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: b}),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", addr)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
}

const configText = `version: 1
state_dir: %s
listen: %s
drain: 5s
containerd: {address: ""}
http: {listen: ""}
`

// Socket paths have 107 usable bytes, and test directories can be long.
func socketPath() (string, func(), error) {
	dir, err := os.MkdirTemp("", "conf")
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(dir, "s"), func() { os.RemoveAll(dir) }, nil
}

func startCairnd(dir string) (*server, error) {
	socket, rmSocket, err := socketPath()
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "cairn.yaml")
	text := fmt.Sprintf(configText, filepath.Join(dir, "cairn"), socket)
	if err := os.WriteFile(conf, []byte(text), 0600); err != nil {
		return nil, err
	}
	logPath := filepath.Join(dir, "cairnd.log")
	log, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(*cairndPath, "--config", conf)
	cmd.Stderr = log
	cmd.Stdout = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()

	stop := func() error {
		cmd.Process.Signal(syscall.SIGTERM)
		var err error
		select {
		case err = <-exited:
		case <-time.After(stopTimeout):
			cmd.Process.Kill()
			<-exited
			err = fmt.Errorf("still running %v after SIGTERM", stopTimeout)
		}
		rmSocket()
		if err != nil {
			return fmt.Errorf("cairnd did not end well: %v\n%s", err, tail(logPath))
		}
		return nil
	}
	deadline := time.Now().Add(startTimeout)
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			break
		}
		select {
		case err := <-exited:
			rmSocket()
			return nil, fmt.Errorf("cairnd ended at start: %v\n%s", err, tail(logPath))
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			stop()
			return nil, fmt.Errorf("cairnd does not listen after %v\n%s", startTimeout, tail(logPath))
		}
	}
	conn, err := dial(socket)
	if err != nil {
		stop()
		return nil, err
	}
	return &server{conn: conn, stop: func() error { conn.Close(); return stop() }}, nil
}

func tail(path string) []byte {
	const keep = 8 << 10
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > keep {
		f.Seek(-keep, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, keep))
	return b
}

// containerd's contentserver over its local store with labels in memory.
func startReference(dir string) (*server, error) {
	socket, rmSocket, err := socketPath()
	if err != nil {
		return nil, err
	}
	store, err := local.NewLabeledStore(filepath.Join(dir, "local"), &memoryLabels{m: map[digest.Digest]map[string]string{}})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	contentapi.RegisterContentServer(srv, contentserver.New(store))
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conn, err := dial(socket)
	if err != nil {
		return nil, err
	}
	return &server{conn: conn, stop: func() error {
		conn.Close()
		srv.Stop()
		rmSocket()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	}}, nil
}

type memoryLabels struct {
	mu sync.Mutex
	m  map[digest.Digest]map[string]string
}

func (l *memoryLabels) Get(d digest.Digest) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.m[d], nil
}

func (l *memoryLabels) Set(d digest.Digest, labels map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m[d] = labels
	return nil
}

func (l *memoryLabels) Update(d digest.Digest, update map[string]string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	labels := l.m[d]
	if labels == nil {
		labels = map[string]string{}
	}
	for k, v := range update {
		if v == "" {
			delete(labels, k)
		} else {
			labels[k] = v
		}
	}
	l.m[d] = labels
	return labels, nil
}
