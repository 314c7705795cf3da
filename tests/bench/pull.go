package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/platforms"
	"github.com/containerd/containerd/remotes"
	"github.com/containerd/containerd/remotes/docker"
)

const registryConfig = `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s}}
http: {addr: %s}
`

const containerdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"%[3]s]
[grpc]
  address = "%[2]s"
[ttrpc]
  address = "%[2]s.ttrpc"
[debug]
  level = "warn"
%[4]s`

const proxyConfig = `[proxy_plugins.bench]
  type = "content"
  address = "%s"
`

// Whole pulls through a real containerd, from a registry on loopback: fetch, then unpack. The client is
// containerd's own library, as in ctr, with the resolver in the client. Every run begins with an empty
// containerd and an empty store.
func (b *bench) runPulls(kinds []subject) error {
	if !b.wanted("pull: fetch") && !b.wanted("pull: unpack") {
		return nil
	}
	sizes := []int{1 << 20, 100 << 20, 20 << 20}
	if b.quick {
		sizes = []int{1 << 20, 4 << 20}
	}
	addr, _, stop, err := b.startRegistry()
	if err != nil {
		return err
	}
	defer stop()
	total, err := pushImage("http://"+addr, "bench/app", "v1", sizes)
	if err != nil {
		return err
	}
	what := fmt.Sprintf(" of %d layers, %d MiB", len(sizes), total>>20)
	fetch := b.newRow("Pull: fetch"+what, "s", "s")
	fetch.within(builtin, 1.1)
	unpack := b.newRow("Pull: unpack"+what, "s", "s")
	unpack.within(builtin, 1.35)
	for run := 0; run < b.runs; run++ {
		for _, kind := range kinds {
			if err := b.pullRun(kind, addr+"/bench/app:v1", fetch, unpack); err != nil {
				return fmt.Errorf("pull, %s: %w", kind, err)
			}
		}
	}
	b.show(fetch)
	b.show(unpack)
	return nil
}

// A registry on loopback, with its files below root.
func (b *bench) startRegistry() (addr, root string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", nil, err
	}
	addr = l.Addr().String()
	l.Close()
	root = b.dir("registry")
	if err := os.MkdirAll(root, 0700); err != nil {
		return "", "", nil, err
	}
	conf := root + ".yml"
	if err := os.WriteFile(conf, []byte(fmt.Sprintf(registryConfig, root, addr)), 0600); err != nil {
		return "", "", nil, err
	}
	p, err := startProcess(filepath.Join(b.work, "registry.log"), "docker-registry", "serve", conf)
	if err != nil {
		return "", "", nil, err
	}
	stop = func() { p.stop(syscall.SIGKILL); os.RemoveAll(root) }
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err == nil {
			resp.Body.Close()
			return addr, root, stop, nil
		}
		if time.Now().After(deadline) {
			stop()
			return "", "", nil, p.why(fmt.Errorf("docker-registry does not answer: %w", err))
		}
	}
}

func (b *bench) startContainerd(s *server, dir string) (*process, string, error) {
	if err := os.MkdirAll(dir, 0700); err != nil {
		return nil, "", err
	}
	b.sockets++
	socket := filepath.Join(b.work, fmt.Sprintf("c%d.sock", b.sockets))
	disabled, proxy := "", ""
	if s.kind != builtin {
		disabled, proxy = `, "io.containerd.content.v1.content"`, fmt.Sprintf(proxyConfig, s.socket)
	}
	conf := dir + ".toml"
	if err := os.WriteFile(conf, []byte(fmt.Sprintf(containerdConfig, dir, socket, disabled, proxy)), 0600); err != nil {
		return nil, "", err
	}
	p, err := startProcess(filepath.Join(b.work, "containerd.log"), "containerd", "--config", conf)
	if err != nil {
		return nil, "", err
	}
	if err := p.waitSocket(socket, 30*time.Second); err != nil {
		p.stop(syscall.SIGKILL)
		return nil, "", err
	}
	return p, socket, nil
}

func plainResolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))})
}

func (b *bench) pullRun(kind subject, ref string, fetch, unpack *row) error {
	s, err := b.startServer(kind, b.dir("pull-"+string(kind)))
	if err != nil {
		return err
	}
	defer s.remove()
	dir := b.dir("containerd")
	p, socket, err := b.startContainerd(s, dir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	defer p.stop(syscall.SIGTERM)

	client, err := containerd.New(socket)
	if err != nil {
		return p.why(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "bench"), 3*time.Minute)
	defer cancel()
	ctx, done, err := client.WithLease(ctx)
	if err != nil {
		return p.why(err)
	}
	defer done(ctx)

	var image containerd.Image
	phase := func(r *row, work func() error) error {
		syscall.Sync() // nobody pays for what others left dirty
		cpu, server, own, begin := cpuOf(p.pid()), s.cpu(), cpuSelf(), time.Now()
		if err := work(); err != nil {
			return p.why(err)
		}
		elapsed := time.Since(begin).Seconds()
		r.add(kind, elapsed, cpuOf(p.pid())-cpu+s.cpu()-server, cpuSelf()-own)
		return nil
	}
	err = phase(fetch, func() error {
		img, err := client.Fetch(ctx, ref, containerd.WithResolver(plainResolver()))
		image = containerd.NewImageWithPlatform(client, img, platforms.All)
		return err
	})
	if err != nil {
		return err
	}
	return phase(unpack, func() error { return image.Unpack(ctx, "overlayfs") })
}
