package cluster

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// LogOptions say what of a log is printed.
type LogOptions struct {
	// Tail prints only so many last lines; negative is all.
	Tail int
	// Since leaves out what is older than this time, unless it is zero.
	Since time.Time
	// Timestamps puts the time before each line.
	Timestamps bool
}

// logPrinter prints a container's log, whose lines are in the format of container runtimes (CRI):
// "TIME STREAM TAGS TEXT", of which the tag P says that the line goes on in the next one.
type logPrinter struct {
	LogOptions
	to io.Writer
	// rest is the beginning of a line whose end is not written yet.
	rest []byte
	// held are the last lines, while older ones may still fall out. Nil once they were printed.
	held [][]byte
	// partial says that what was printed last is to be continued.
	partial bool
}

func newLogPrinter(to io.Writer, o LogOptions) *logPrinter {
	p := &logPrinter{LogOptions: o, to: to}
	if o.Tail >= 0 {
		p.held = [][]byte{}
	}
	return p
}

// Write takes the next bytes of the file.
func (p *logPrinter) Write(data []byte) (int, error) {
	p.rest = append(p.rest, data...)
	for {
		line, rest, whole := bytes.Cut(p.rest, []byte{'\n'})
		if !whole {
			return len(data), nil
		}
		if err := p.line(line); err != nil {
			return 0, err
		}
		p.rest = rest
	}
}

func (p *logPrinter) line(line []byte) error {
	if p.held == nil {
		return p.print(line)
	}
	if p.tooOld(line) || p.Tail == 0 {
		return nil
	}
	p.held = append(p.held, bytes.Clone(line))
	if whole := p.wholeLines(); whole > p.Tail {
		p.dropFirst()
	}
	return nil
}

// wholeLines counts held lines as the program wrote them.
func (p *logPrinter) wholeLines() int {
	n := 0
	for i, line := range p.held {
		if e, ok := parseLogEntry(line); !ok || !e.partial || i == len(p.held)-1 {
			n++
		}
	}
	return n
}

func (p *logPrinter) dropFirst() {
	for len(p.held) > 0 {
		e, ok := parseLogEntry(p.held[0])
		p.held = p.held[1:]
		if !ok || !e.partial {
			return
		}
	}
}

// flush prints the last lines: the end of the file was reached for the first time.
func (p *logPrinter) flush() error {
	held := p.held
	p.held = nil
	for _, line := range held {
		if err := p.print(line); err != nil {
			return err
		}
	}
	return nil
}

func (p *logPrinter) tooOld(line []byte) bool {
	if p.Since.IsZero() {
		return false
	}
	e, ok := parseLogEntry(line)
	return ok && e.time.Before(p.Since)
}

func (p *logPrinter) print(line []byte) error {
	if p.tooOld(line) {
		return nil
	}
	e, ok := parseLogEntry(line)
	if !ok {
		_, err := fmt.Fprintf(p.to, "%s\n", line)
		return err
	}
	out := e.text
	if p.Timestamps && !p.partial {
		out = append([]byte(e.stamp+" "), out...)
	}
	p.partial = e.partial
	if !e.partial {
		out = append(out[:len(out):len(out)], '\n')
	}
	_, err := p.to.Write(out)
	return err
}

// logEntry is one line of a log.
type logEntry struct {
	stamp   string
	time    time.Time
	partial bool
	text    []byte
}

func parseLogEntry(line []byte) (logEntry, bool) {
	fields := bytes.SplitN(line, []byte{' '}, 4)
	if len(fields) != 4 {
		return logEntry{}, false
	}
	at, err := time.Parse(time.RFC3339Nano, string(fields[0]))
	if err != nil {
		return logEntry{}, false
	}
	return logEntry{stamp: string(fields[0]), time: at, partial: bytes.HasPrefix(fields[2], []byte{'P'}), text: fields[3]}, true
}
