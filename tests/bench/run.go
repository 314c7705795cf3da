package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

// What one `bench run` works with.
type bench struct {
	self, cairnd string
	cclient      string // bench_info
	work         string
	runs         int
	quick        bool
	seconds      float64
	blobSize     int64
	manyBlobs    int
	only         *regexp.Regexp
	rows         []*row
	sockets      int
	dirs         int
	cairnExtra   string // more lines for cairnd's configuration
}

func (b *bench) wanted(name string) bool { return b.only.MatchString(name) }

func runMain(args []string) error {
	b := &bench{}
	fs := flag.NewFlagSet("run", flag.ExitOnError)
	fs.StringVar(&b.cairnd, "cairnd", "", "the cairnd to measure; none: the others only")
	fs.StringVar(&b.cclient, "cclient", "", "the client in C; none: no latencies without Go")
	fs.StringVar(&b.work, "work", "", "an empty directory to work in")
	fs.IntVar(&b.runs, "runs", 5, "runs of each subject, in turn")
	fs.BoolVar(&b.quick, "quick", false, "small sizes, to see that everything works")
	jsonPath := fs.String("json", "", "write the results here as well")
	only := fs.String("only", "", "measures whose names match this regular expression")
	without := fs.Bool("no-pull", false, "leave out whole pulls")
	fs.Parse(args)

	var err error
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.only, err = regexp.Compile("(?i)" + *only); err != nil {
		return err
	}
	b.seconds, b.blobSize, b.manyBlobs = 2, gib, 100000
	if b.quick {
		b.seconds, b.blobSize, b.manyBlobs = 0.2, 32<<20, 2000
	}
	kinds := []subject{cairn, goSrv, builtin}
	if b.cairnd == "" {
		kinds = kinds[1:]
	}
	fmt.Fprintln(os.Stderr, "bench:", machine())
	if err = b.runAll(kinds, *without); err != nil {
		return err
	}
	fmt.Print(b.table())
	if *jsonPath != "" {
		return b.writeJSON(*jsonPath)
	}
	return nil
}

func (b *bench) runAll(kinds []subject, withoutPull bool) error {
	if err := b.runClientMeasures(clientMeasures(b), kinds); err != nil {
		return err
	}
	if err := b.runMemory(kinds); err != nil {
		return err
	}
	if err := b.runStart(kinds); err != nil {
		return err
	}
	if err := b.runGC(); err != nil {
		return err
	}
	if withoutPull {
		return nil
	}
	if err := b.runPulls(kinds); err != nil {
		return err
	}
	return b.runPreheat()
}

// One line that says what was measured on.
func machine() string {
	cpu := "unknown CPU"
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		for sc := bufio.NewScanner(f); sc.Scan(); {
			if strings.HasPrefix(sc.Text(), "model name") {
				cpu = strings.TrimSpace(strings.SplitN(sc.Text(), ":", 2)[1])
				break
			}
		}
		f.Close()
	}
	var u syscall.Utsname
	syscall.Uname(&u)
	release := ""
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		release += string(rune(c))
	}
	var si syscall.Sysinfo_t
	syscall.Sysinfo(&si)
	return fmt.Sprintf("%d CPUs (%s), %.0f GiB, Linux %s, client %s", runtime.NumCPU(), cpu,
		float64(si.Totalram)*float64(si.Unit)/gib, release, runtime.Version())
}
