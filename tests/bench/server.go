package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// A subject is one way to keep content: cairnd, containerd's Go service, or the built-in store.
type subject string

const (
	cairn   subject = "cairn"
	goSrv   subject = "go"
	builtin subject = "builtin"
)

// A running subject. The built-in store has no process: its client does the work.
type server struct {
	kind   subject
	root   string
	socket string
	proc   *process
}

// A child that dies with us and is reaped exactly once.
type process struct {
	cmd    *exec.Cmd
	exited chan error
	log    string
}

func startProcess(log string, name string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{cmd: exec.Command(name, args...), exited: make(chan error, 1), log: log}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.exited <- p.cmd.Wait() }()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) stop(sig syscall.Signal) error {
	p.cmd.Process.Signal(sig)
	select {
	case err := <-p.exited:
		p.exited <- err
		if sig == syscall.SIGKILL {
			return nil
		}
		return err
	case <-time.After(30 * time.Second):
		p.cmd.Process.Kill()
		p.exited <- <-p.exited
		return fmt.Errorf("%s: still running 30 s after %v", p.cmd.Path, sig)
	}
}

func (p *process) why(err error) error {
	b, _ := os.ReadFile(p.log)
	if len(b) > 2000 {
		b = b[len(b)-2000:]
	}
	return fmt.Errorf("%w\n%s", err, b)
}

// Wait until somebody accepts on the socket.
func (p *process) waitSocket(socket string, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	for {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return nil
		}
		select {
		case err := <-p.exited:
			p.exited <- err
			return p.why(fmt.Errorf("%s ended at start: %v", p.cmd.Path, err))
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			return p.why(fmt.Errorf("%s does not listen after %v", p.cmd.Path, limit))
		}
	}
}

const cairnConfig = `version: 1
state_dir: %s
listen: %s
containerd: {address: ""}
http: {listen: ""}
gc: {interval: 24h, keep_storage: 0s, high_watermark: 100%%, low_watermark: 100%%, min_free: 0%%}
log: {level: warn}
%s`

func (b *bench) startServer(kind subject, root string) (*server, error) {
	if err := os.MkdirAll(root, 0700); err != nil {
		return nil, err
	}
	s := &server{kind: kind, root: root}
	if kind == builtin {
		return s, nil
	}
	b.sockets++
	s.socket = filepath.Join(b.work, fmt.Sprintf("%d.sock", b.sockets))
	if err := s.launch(b); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *server) launch(b *bench) error {
	var err error
	log := filepath.Join(b.work, "server.log")
	if s.kind == cairn {
		conf := s.socket + ".yaml"
		if err := os.WriteFile(conf, []byte(fmt.Sprintf(cairnConfig, s.root, s.socket, b.cairnExtra)), 0600); err != nil {
			return err
		}
		s.proc, err = startProcess(log, b.cairnd, "--config", conf)
	} else {
		s.proc, err = startProcess(log, b.self, "goserver", "-socket", s.socket, "-root", s.root)
	}
	if err != nil {
		return err
	}
	if err := s.proc.waitSocket(s.socket, 2*time.Minute); err != nil {
		s.proc.stop(syscall.SIGKILL)
		return err
	}
	return nil
}

func (s *server) stop(sig syscall.Signal) error {
	if s.proc == nil {
		return nil
	}
	err := s.proc.stop(sig)
	if err != nil {
		err = s.proc.why(err)
	}
	return err
}

// Stop and remove all it kept.
func (s *server) remove() error {
	err := s.stop(syscall.SIGTERM)
	if e := os.RemoveAll(s.root); err == nil {
		err = e
	}
	return err
}

// CPU seconds of the process so far; clock ticks are 10 ms on every Linux.
func (s *server) cpu() float64 {
	if s.proc == nil {
		return 0
	}
	return cpuOf(s.proc.pid())
}

func cpuOf(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	sys, _ := strconv.ParseFloat(f[12], 64)
	return (user + sys) / 100
}

type memory struct{ RSS, Anon float64 } // MiB

func (s *server) memory() (m memory) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", s.proc.pid()))
	if err != nil {
		return
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		w := strings.Fields(sc.Text())
		if len(w) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(w[1], 64)
		switch w[0] {
		case "VmRSS:":
			m.RSS = kib / 1024
		case "RssAnon:":
			m.Anon = kib / 1024
		}
	}
	return
}

// Run one client process against the server.
func (b *bench) client(s *server, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	if s.kind == builtin {
		args = append([]string{"client", "-local", s.root}, args...)
	} else {
		args = append([]string{"client", "-socket", s.socket}, args...)
	}
	cmd := exec.CommandContext(ctx, b.self, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("client of %s %v: %w: %s", s.kind, args, err, exit.Stderr)
	}
	return out, err
}

// One measured run: what the client reports, and the server's CPU meanwhile.
func (b *bench) measureClient(s *server, args ...string) (*sample, error) {
	before := s.cpu()
	out, err := b.client(s, args...)
	if err != nil {
		return nil, err
	}
	smp := &sample{ServerCPU: s.cpu() - before}
	return smp, json.Unmarshal(out, &smp.result)
}

// Put one blob of this size in; returns its digest.
func (b *bench) fill(s *server, size int64) (digest.Digest, error) {
	out, err := b.client(s, "-op", "fill", "-size", fmt.Sprint(size))
	if err != nil {
		return "", err
	}
	return digest.Parse(strings.TrimSpace(string(out)))
}
