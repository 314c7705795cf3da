package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
)

// One line of the report: a measure on up to three subjects.
type row struct {
	Name    string              `json:"name"`
	Unit    string              `json:"unit"`
	CPUUnit string              `json:"cpu_unit,omitempty"`
	By      map[subject]*series `json:"subjects"`

	// cairn beside the baseline: speed ratio for rates, time ratio for seconds.
	Baseline subject `json:"baseline,omitempty"`
	Ratio    float64 `json:"ratio,omitempty"`
	CPURatio float64 `json:"cpu_ratio,omitempty"`
	Goal     string  `json:"goal,omitempty"`
	CPUGoal  string  `json:"cpu_goal,omitempty"`
	Met      string  `json:"met,omitempty"`
	CPUMet   string  `json:"cpu_met,omitempty"`

	atLeast, cpuAtMost, atMost, absolute float64
}

type series struct {
	Values    []float64 `json:"values"`
	Median    float64   `json:"median"`
	ServerCPU float64   `json:"server_cpu"`
	ClientCPU float64   `json:"client_cpu"`
	P50us     float64   `json:"p50_us,omitempty"`
	P99us     float64   `json:"p99_us,omitempty"`

	server, client, p50, p99 []float64
}

func (b *bench) newRow(name, unit, cpuUnit string) *row {
	r := &row{Name: name, Unit: unit, CPUUnit: cpuUnit, By: map[subject]*series{}, Baseline: goSrv}
	b.rows = append(b.rows, r)
	return r
}

// At least so many times the baseline's speed, at most so much of its server CPU.
func (r *row) goal(atLeast, cpuAtMost float64) { r.atLeast, r.cpuAtMost = atLeast, cpuAtMost }

// At most so many times the baseline's time.
func (r *row) within(base subject, atMost float64) { r.Baseline, r.atMost = base, atMost }

// At most this value, whatever others need.
func (r *row) limit(absolute float64) { r.absolute = absolute }

func (r *row) of(kind subject) *series {
	if r.By[kind] == nil {
		r.By[kind] = &series{}
	}
	return r.By[kind]
}

func (r *row) add(kind subject, value, serverCPU, clientCPU float64) {
	s := r.of(kind)
	s.Values = append(s.Values, value)
	s.server = append(s.server, serverCPU)
	s.client = append(s.client, clientCPU)
}

func (r *row) latency(kind subject, p50, p99 float64) {
	s := r.of(kind)
	s.p50 = append(s.p50, p50)
	s.p99 = append(s.p99, p99)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := append([]float64(nil), v...)
	sort.Float64s(s)
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

func verdict(ok bool) string {
	if ok {
		return "met"
	}
	return "NOT MET"
}

// Medians, ratios and verdicts, once all runs are in.
func (r *row) finish() {
	for _, s := range r.By {
		s.Median = median(s.Values)
		s.ServerCPU, s.ClientCPU = median(s.server), median(s.client)
		s.P50us, s.P99us = median(s.p50), median(s.p99)
	}
	ours, base := r.By[cairn], r.By[r.Baseline]
	if ours == nil {
		return
	}
	if base != nil && base.Median > 0 {
		r.Ratio = ours.Median / base.Median
		if base.ServerCPU > 0 {
			r.CPURatio = ours.ServerCPU / base.ServerCPU
		}
	}
	switch {
	case r.absolute > 0:
		r.Goal = fmt.Sprintf("<= %g %s", r.absolute, r.Unit)
		r.Met = verdict(ours.Median <= r.absolute)
	case r.atMost > 0 && r.Ratio > 0:
		r.Goal = fmt.Sprintf("<= %.2fx %s", r.atMost, r.Baseline)
		r.Met = verdict(r.Ratio <= r.atMost)
	case r.atLeast > 0 && r.Ratio > 0:
		r.Goal = fmt.Sprintf(">= %.1fx %s", r.atLeast, r.Baseline)
		r.Met = verdict(r.Ratio >= r.atLeast)
	}
	if r.cpuAtMost > 0 && r.CPURatio > 0 {
		r.CPUGoal = fmt.Sprintf("<= %.2fx", r.cpuAtMost)
		r.CPUMet = verdict(r.CPURatio <= r.cpuAtMost)
	}
}

func number(v float64) string {
	switch {
	case v == 0:
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func (r *row) cell(kind subject, pick func(*series) float64) string {
	if s := r.By[kind]; s != nil {
		return number(pick(s))
	}
	return "-"
}

// As soon as a measure is done: one line for who watches.
func (b *bench) show(r *row) {
	r.finish()
	if len(r.By) == 0 {
		return
	}
	fmt.Fprintf(os.Stderr, "%-48s", r.Name)
	for _, kind := range []subject{cairn, goSrv, builtin} {
		if s := r.By[kind]; s != nil {
			fmt.Fprintf(os.Stderr, "  %s %s", kind, number(s.Median))
			if s.ServerCPU > 0 {
				fmt.Fprintf(os.Stderr, " (cpu %s)", number(s.ServerCPU))
			}
		}
	}
	fmt.Fprintf(os.Stderr, " %s", r.Unit)
	if r.Ratio > 0 {
		fmt.Fprintf(os.Stderr, "  %.2fx", r.Ratio)
	}
	if r.Goal != "" {
		fmt.Fprintf(os.Stderr, " [%s: %s]", r.Goal, r.Met)
	}
	if r.CPURatio > 0 {
		fmt.Fprintf(os.Stderr, "  cpu %.2fx", r.CPURatio)
	}
	if r.CPUGoal != "" {
		fmt.Fprintf(os.Stderr, " [%s: %s]", r.CPUGoal, r.CPUMet)
	}
	fmt.Fprintln(os.Stderr)
}

var columns = []string{"measure", "unit", "cairn", "go", "built-in", "ratio", "goal", "", "server CPU: unit",
	"cairn", "go", "ratio", "goal", "", "client CPU: cairn", "go", "p50/p99 µs: cairn", "go"}

func (r *row) cells() []string {
	ratio := func(v float64) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf("%.2fx", v)
	}
	latency := func(kind subject) string {
		if s := r.By[kind]; s != nil && s.P50us > 0 {
			return number(s.P50us) + "/" + number(s.P99us)
		}
		return "-"
	}
	value := func(s *series) float64 { return s.Median }
	server := func(s *series) float64 { return s.ServerCPU }
	client := func(s *series) float64 { return s.ClientCPU }
	return []string{r.Name, r.Unit, r.cell(cairn, value), r.cell(goSrv, value), r.cell(builtin, value), ratio(r.Ratio), r.Goal, r.Met,
		r.CPUUnit, r.cell(cairn, server), r.cell(goSrv, server), ratio(r.CPURatio), r.CPUGoal, r.CPUMet,
		r.cell(cairn, client), r.cell(goSrv, client), latency(cairn), latency(goSrv)}
}

// A Markdown table whose columns also line up on a terminal.
func (b *bench) table() string {
	rows := [][]string{columns}
	for _, r := range b.rows {
		if len(r.By) > 0 {
			rows = append(rows, r.cells())
		}
	}
	width := make([]int, len(columns))
	for _, cells := range rows {
		for i, c := range cells {
			if n := len([]rune(c)); n > width[i] {
				width[i] = n
			}
		}
	}
	var out strings.Builder
	for n, cells := range rows {
		for i, c := range cells {
			out.WriteString("| " + c + strings.Repeat(" ", width[i]-len([]rune(c))) + " ")
		}
		out.WriteString("|\n")
		if n == 0 {
			for i := range cells {
				out.WriteString("|" + strings.Repeat("-", width[i]+2))
			}
			out.WriteString("|\n")
		}
	}
	return out.String()
}

func (b *bench) writeJSON(path string) error {
	text, err := json.MarshalIndent(map[string]interface{}{
		"machine": machine(), "runs": b.runs, "quick": b.quick, "rows": b.rows,
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0644)
}
