package main

import (
	"fmt"
	"path/filepath"
	"syscall"
	"time"
)

const gib = 1 << 30

// A sample is one run of one measure on one subject.
type sample struct {
	result
	ServerCPU float64 `json:"server_cpu"`
}

// A measure that one client process makes against a running server.
type measure struct {
	name string
	unit string
	args func(b *bench, s *server, blob string) []string
	// What the sample is worth, in unit; more is better.
	value func(s *sample) float64
	// What CPU seconds are counted by.
	per     func(s *sample) float64
	perUnit string
	// Each run needs a server of its own (writes: what is there would be found).
	fresh bool
	// Goals over containerd's Go server: at least so fast, at most so much server CPU. 0: none.
	goal, cpuGoal float64
}

func perSecond(s *sample) float64 { return float64(s.Ops) / s.Seconds }
func mbPerSecond(s *sample) float64 {
	return float64(s.Bytes) / s.Seconds / 1e6
}
func perCall(s *sample) float64 { return float64(s.Ops) / 1e6 } // CPU µs per call
func perGiB(s *sample) float64  { return float64(s.Bytes) / gib }

func clientMeasures(b *bench) []measure {
	var list []measure
	info := func(conc int, goal float64) {
		list = append(list, measure{
			name: fmt.Sprintf("Info, %s", clients(conc)), unit: "1/s", value: perSecond, per: perCall, perUnit: "µs/call",
			goal: goal, cpuGoal: 0.35,
			args: func(b *bench, s *server, blob string) []string {
				return []string{"-op", "info", "-conc", fmt.Sprint(conc), "-blob", blob, "-seconds", fmt.Sprint(b.seconds)}
			}})
	}
	readAt := func(label string, size, conc int, goal float64) {
		list = append(list, measure{
			name: fmt.Sprintf("ReadAt %s, %s", label, readers(conc)), unit: "MB/s", value: mbPerSecond, per: perGiB, perUnit: "s/GiB",
			goal: goal, cpuGoal: 0.25,
			args: func(b *bench, s *server, blob string) []string {
				return []string{"-op", "readat", "-size", fmt.Sprint(size), "-conc", fmt.Sprint(conc), "-blob", blob, "-seconds", fmt.Sprint(b.seconds)}
			}})
	}
	stream := func(conc int, goal float64) {
		list = append(list, measure{
			name: fmt.Sprintf("Read %s as a stream, %s", sizeName(b.blobSize), readers(conc)), unit: "MB/s",
			value: mbPerSecond, per: perGiB, perUnit: "s/GiB", goal: goal, cpuGoal: 0.25,
			args: func(b *bench, s *server, blob string) []string {
				return []string{"-op", "stream", "-conc", fmt.Sprint(conc), "-blob", blob}
			}})
	}
	write := func(conc int, goal float64) {
		size := b.blobSize / int64(conc)
		list = append(list, measure{
			name: fmt.Sprintf("Write %s, flushed, %s", sizeName(b.blobSize), writers(conc)), unit: "MB/s", fresh: true,
			value: mbPerSecond, per: perGiB, perUnit: "s/GiB", goal: goal, cpuGoal: 0.25,
			args: func(b *bench, s *server, blob string) []string {
				return []string{"-op", "write", "-size", fmt.Sprint(size), "-conc", fmt.Sprint(conc), "-seed", "1000"}
			}})
	}
	info(1, 2.4)
	info(8, 2.2)
	readAt("32 KiB", 32<<10, 1, 2.3)
	readAt("32 KiB", 32<<10, 4, 2.0)
	readAt("1 MiB", 1<<20, 1, 1.8)
	readAt("1 MiB", 1<<20, 4, 0)
	stream(1, 2.0)
	stream(4, 0)
	write(1, 3.5)
	write(4, 2.5)
	return list
}

func clients(n int) string { return count(n, "client") }
func readers(n int) string { return count(n, "reader") }
func writers(n int) string { return count(n, "writer") }
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func sizeName(n int64) string {
	if n >= gib {
		return fmt.Sprintf("%d GiB", n/gib)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// Measures on servers that live through all of them and hold one big blob.
func (b *bench) runClientMeasures(list []measure, kinds []subject) error {
	servers := map[subject]*server{}
	blobs := map[subject]string{}
	defer func() {
		for _, s := range servers {
			s.remove()
		}
	}()
	ready := func(kind subject) error {
		if servers[kind] != nil {
			return nil
		}
		s, err := b.startServer(kind, b.dir("live-"+string(kind)))
		if err != nil {
			return err
		}
		servers[kind] = s
		d, err := b.fill(s, b.blobSize)
		if err != nil {
			return err
		}
		blobs[kind] = string(d)
		// Once through, so that no subject pays for the first look at the file.
		_, err = b.client(s, "-op", "stream", "-blob", blobs[kind])
		return err
	}
	for _, m := range list {
		if !b.wanted(m.name) {
			continue
		}
		r := b.newRow(m.name, m.unit, m.perUnit)
		r.goal(m.goal, m.cpuGoal)
		for run := 0; run < b.runs; run++ {
			for _, kind := range kinds {
				var smp *sample
				var err error
				if m.fresh {
					smp, err = b.freshRun(m, kind)
				} else if err = ready(kind); err == nil {
					smp, err = b.measureClient(servers[kind], m.args(b, servers[kind], blobs[kind])...)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", m.name, err)
				}
				r.add(kind, m.value(smp), smp.ServerCPU/m.per(smp), smp.ClientCPU/m.per(smp))
				if smp.Ops > 1 {
					r.latency(kind, smp.P50us, smp.P99us)
				}
			}
		}
		b.show(r)
	}
	return nil
}

func (b *bench) freshRun(m measure, kind subject) (smp *sample, err error) {
	s, err := b.startServer(kind, b.dir("fresh-"+string(kind)))
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := s.remove(); err == nil {
			err = e
		}
		syscall.Sync() // the next subject shall not wait for this one's dirty pages
	}()
	return b.measureClient(s, m.args(b, s, "")...)
}

// Resident memory, idle and under 8 transfers at once.
func (b *bench) runMemory(kinds []subject) error {
	const name = "memory"
	if !b.wanted(name) {
		return nil
	}
	rows := []*row{
		b.newRow("RSS idle", "MiB", ""), b.newRow("RSS idle, anonymous", "MiB", ""),
		b.newRow("RSS under 8 transfers, highest", "MiB", ""), b.newRow("RSS under 8 transfers, anonymous, highest", "MiB", ""),
		b.newRow("RSS after them", "MiB", ""),
	}
	rows[0].limit(16)
	rows[2].limit(64)
	for _, kind := range kinds {
		if kind == builtin {
			continue
		}
		for run := 0; run < b.runs; run++ {
			idle, peak, after, err := b.memoryRun(kind)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			for i, v := range []float64{idle.RSS, idle.Anon, peak.RSS, peak.Anon, after.RSS} {
				rows[i].add(kind, v, 0, 0)
			}
		}
	}
	for _, r := range rows {
		b.show(r)
	}
	return nil
}

func (b *bench) memoryRun(kind subject) (idle, peak, after memory, err error) {
	s, err := b.startServer(kind, b.dir("memory-"+string(kind)))
	if err != nil {
		return
	}
	defer s.remove()
	d, err := b.fill(s, b.blobSize/4)
	if err != nil {
		return
	}
	// A daemon that just started is what "idle" means; one that served before comes last.
	if err = s.stop(syscall.SIGTERM); err != nil && kind == cairn {
		return
	}
	if err = s.launch(b); err != nil {
		return
	}
	if _, err = b.client(s, "-op", "alive", "-blob", string(d)); err != nil {
		return
	}
	idle = s.memory()
	done := make(chan error, 1)
	go func() {
		_, e := b.client(s, "-op", "mixed", "-conc", "8", "-size", fmt.Sprint(b.blobSize/4), "-blob", string(d), "-seed", "5000")
		done <- e
	}()
	for running := true; running; {
		select {
		case err = <-done:
			running = false
		case <-time.After(20 * time.Millisecond):
			m := s.memory()
			if m.RSS > peak.RSS {
				peak.RSS = m.RSS
			}
			if m.Anon > peak.Anon {
				peak.Anon = m.Anon
			}
		}
	}
	after = s.memory()
	return
}

func (b *bench) dir(name string) string {
	b.dirs++
	return filepath.Join(b.work, fmt.Sprintf("%s-%d", name, b.dirs))
}
