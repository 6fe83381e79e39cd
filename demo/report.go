package demo

import (
	"fmt"
	"io"
	"strings"
)

// Report prints the story and counts what did not turn out as told.
type report struct {
	out    io.Writer
	colour bool
	step   int
	passed int
	failed int
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (r *report) paint(code, s string) string {
	if !r.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// title begins the next step.
func (r *report) title(format string, args ...any) {
	r.step++
	fmt.Fprintf(r.out, "\n%s\n", r.paint(bold, fmt.Sprintf("%d. %s", r.step, fmt.Sprintf(format, args...))))
}

// command shows a command line as it is typed at a prompt of the given place.
func (r *report) command(place, line string) {
	fmt.Fprintf(r.out, "   %s %s\n", r.paint(cyan, place+"$"), line)
}

// output shows what a command printed.
func (r *report) output(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Fprintf(r.out, "   %s\n", strings.TrimRight(line, "\n"))
	}
}

// say explains.
func (r *report) say(format string, args ...any) {
	fmt.Fprintf(r.out, "   %s\n", r.paint(dim, fmt.Sprintf(format, args...)))
}

// check tells whether something is as it must be.
func (r *report) check(ok bool, format string, args ...any) {
	mark := r.paint(green, "✓")
	if ok {
		r.passed++
	} else {
		r.failed++
		mark = r.paint(red, "✗ FAILED:")
	}
	fmt.Fprintf(r.out, "   %s %s\n", mark, fmt.Sprintf(format, args...))
}
