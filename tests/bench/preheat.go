package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/namespaces"
)

// What a preheat is measured against: who downloads and checks, but keeps nothing.
const curl subject = "curl and sha256sum"

type preheatRows struct{ speed, cpu, pull *row }

// A preheat of an image of one large layer, from a registry on loopback, and the pull that comes
// after it. The registry has lost the layer by then: that no byte of it is asked for is part of it.
func (b *bench) runPreheat() error {
	what := fmt.Sprintf("1 layer, %d MiB", b.blobSize>>20)
	name := "Preheat of " + what
	if !b.wanted(name) || b.cairnd == "" {
		return nil
	}
	addr, root, stop, err := b.startRegistry()
	if err != nil {
		return err
	}
	defer stop()
	manifest, err := pushLayers("http://"+addr, "bench/large", "v1", []int{int(b.blobSize)}, randomLayer)
	if err != nil {
		return err
	}
	rows := preheatRows{b.newRow(name, "MB/s", ""), b.newRow(name+": CPU of cairnd", "s/GiB", ""),
		b.newRow("Pull of a preheated image: fetch of "+what, "ms", "")}
	rows.speed.goal(0.9, 0)
	rows.speed.Baseline = curl
	rows.cpu.limit(2)
	rows.pull.limit(50)
	b.cairnExtra = fmt.Sprintf("registries: {hosts: [{host: %q, plain_http: true}]}\n", addr)
	defer func() { b.cairnExtra = "" }()
	layer := manifest.Layers[0].Digest
	url := fmt.Sprintf("http://%s/v2/bench/large/blobs/%s", addr, layer)
	file := filepath.Join(root, "docker/registry/v2/blobs/sha256", layer.Encoded()[:2], layer.Encoded(), "data")
	for run := 0; run < b.runs; run++ {
		if err := b.curlRun(url, rows.speed); err != nil {
			return err
		}
		if err := b.preheatRun(addr+"/bench/large:v1", file, rows); err != nil {
			return fmt.Errorf("preheat: %w", err)
		}
	}
	b.show(rows.speed)
	b.show(rows.cpu)
	b.show(rows.pull)
	return nil
}

func (b *bench) curlRun(url string, speed *row) error {
	syscall.Sync()
	begin := time.Now()
	cmd := exec.Command("sh", "-c", `curl -sSf "$0" | sha256sum`, url)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("curl: %w: %s", err, out)
	}
	speed.add(curl, float64(b.blobSize)/1e6/time.Since(begin).Seconds(), 0, 0)
	return nil
}

func (b *bench) preheatRun(ref, layerFile string, rows preheatRows) error {
	s, err := b.startServer(cairn, b.dir("preheat"))
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

	syscall.Sync()
	cpu, begin := s.cpu(), time.Now()
	ctl := filepath.Join(filepath.Dir(b.cairnd), "cairnctl")
	out, err := exec.Command(ctl, "--socket", s.socket, "preheat", "--namespace", "bench", ref).CombinedOutput()
	if err != nil {
		return s.proc.why(fmt.Errorf("cairnctl preheat: %w: %s", err, out))
	}
	rows.speed.add(cairn, float64(b.blobSize)/1e6/time.Since(begin).Seconds(), 0, 0)
	rows.cpu.add(cairn, (s.cpu()-cpu)*float64(gib)/float64(b.blobSize), 0, 0)

	if err = os.Rename(layerFile, layerFile+".away"); err != nil {
		return err
	}
	defer os.Rename(layerFile+".away", layerFile)
	took, err := fetch(socket, ref)
	if err != nil {
		return p.why(err)
	}
	rows.pull.add(cairn, float64(took)/float64(time.Millisecond), 0, 0)
	return nil
}

// Pull, but do not unpack.
func fetch(socket, ref string) (time.Duration, error) {
	client, err := containerd.New(socket)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "bench"), 3*time.Minute)
	defer cancel()
	begin := time.Now()
	_, err = client.Fetch(ctx, ref, containerd.WithResolver(plainResolver()))
	return time.Since(begin), err
}
