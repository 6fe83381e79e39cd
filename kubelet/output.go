package kubelet

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Kubelet's numbers: a log file is rotated at 10 MiB, and a line is written in parts of at most 16 KiB.
const (
	maxLogFile = 10 << 20
	maxLogLine = 16 << 10
)

// attachReplay is how much of what a container has printed its first attached caller still gets.
const attachReplay = 64 << 10

// output keeps what a container prints: one file a run, N.log for the run after N restarts, in the format of the
// container runtime interface (time, stream, F or P for a line that goes on, text), and passes it on to those
// attached. The files of the last two runs are kept, of each the last two files.
type output struct {
	dir   string
	clock clock.PassiveClock

	mu       sync.Mutex
	run      int32
	current  *os.File
	size     int64
	partial  map[string][]byte // by stream, until the line's end
	terminal bool
	attached map[*attachment]bool
	replay   []byte // for the first to attach; nil once there was one
	input    io.WriteCloser
	once     bool          // the input ends with the first who attached
	done     chan struct{} // closed at the end of the run
}

func newOutput(dir string, c clock.PassiveClock) *output {
	return &output{dir: dir, clock: c, run: -1, attached: map[*attachment]bool{}}
}

func (o *output) path(run int32) string { return filepath.Join(o.dir, strconv.Itoa(int(run))+".log") }

// begins opens the log of another run. A log that can't be written is none: the container runs all the same.
func (o *output) begins(run int32, terminal bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.run, o.terminal, o.size = run, terminal, 0
	o.partial, o.replay, o.done = map[string][]byte{}, []byte{}, make(chan struct{})
	if os.MkdirAll(o.dir, 0o711) != nil {
		return
	}
	for _, old := range []string{o.path(run - 2), o.path(run-2) + ".1"} {
		_ = os.Remove(old)
	}
	o.open()
}

func (o *output) open() {
	f, err := os.OpenFile(o.path(o.run), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err == nil {
		o.current, o.size = f, 0
	}
}

// attachTo is the standard input of the run that began.
func (o *output) attachTo(input io.WriteCloser, once bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.input, o.once = input, once
}

// ended closes the log and lets go those attached.
func (o *output) ended() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, stream := range []string{"stdout", "stderr"} {
		if rest := o.partial[stream]; len(rest) > 0 {
			o.write(stream, "F", rest)
		}
	}
	o.partial = nil
	if o.current != nil {
		_ = o.current.Close()
		o.current = nil
	}
	o.input = nil
	if o.done != nil {
		close(o.done)
		o.done = nil
	}
}

// stream writes what comes on one of the container's streams.
func (o *output) stream(name string) io.Writer { return &streamWriter{o, name} }

type streamWriter struct {
	o    *output
	name string
}

// Write never fails: a container is not held up by its log.
func (s *streamWriter) Write(data []byte) (int, error) {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	s.o.pass(s.name, data)
	if s.o.partial != nil {
		s.o.log(s.name, data)
	}
	return len(data), nil
}

func (o *output) log(stream string, data []byte) {
	pending := append(o.partial[stream], data...)
	for {
		end := bytes.IndexByte(pending, '\n')
		switch {
		case end >= 0 && end <= maxLogLine:
			o.write(stream, "F", pending[:end])
			pending = pending[end+1:]
			continue
		case len(pending) > maxLogLine:
			o.write(stream, "P", pending[:maxLogLine])
			pending = pending[maxLogLine:]
			continue
		}
		o.partial[stream] = bytes.Clone(pending)
		return
	}
}

func (o *output) write(stream, tag string, line []byte) {
	if o.current == nil {
		return
	}
	text := fmt.Appendf(nil, "%s %s %s ", o.clock.Now().UTC().Format(logTime), stream, tag)
	text = append(append(text, line...), '\n')
	if o.size > 0 && o.size+int64(len(text)) > maxLogFile {
		o.rotate()
	}
	if o.current == nil {
		return
	}
	n, _ := o.current.Write(text)
	o.size += int64(n)
}

// logTime is RFC 3339 with all nanoseconds, so that lines sort.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (o *output) rotate() {
	_ = o.current.Close()
	o.current = nil
	if os.Rename(o.path(o.run), o.path(o.run)+".1") == nil {
		o.open()
	}
}

// tail is the end of the present run's log, as text: at most so many lines and bytes.
func (o *output) tail(lines, size int) string {
	o.mu.Lock()
	path := o.path(o.run)
	o.mu.Unlock()
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const window = 256 << 10
	if info, err := f.Stat(); err == nil && info.Size() > window {
		_, _ = f.Seek(-window, io.SeekEnd)
	}
	data, _ := io.ReadAll(f)
	var text []string
	for line := range strings.Lines(string(data)) {
		if l, err := ParseLogLine(strings.TrimSuffix(line, "\n")); err == nil {
			end := "\n"
			if l.Partial {
				end = ""
			}
			text = append(text, l.Text+end)
		}
	}
	text = text[max(0, len(text)-lines):]
	out := strings.Join(text, "")
	return out[max(0, len(out)-size):]
}

// LogLine is one line of a container's log, or, if Partial, a part of one that goes on with the next of its stream.
type LogLine struct {
	Time    time.Time
	Stream  string // stdout or stderr
	Partial bool
	Text    string
}

// ParseLogLine reads a line of a file that Log names, without its newline.
func ParseLogLine(line string) (LogLine, error) {
	parts := strings.SplitN(line, " ", 4)
	if len(parts) != 4 {
		return LogLine{}, fmt.Errorf("log line %q has no time, stream and tag", line)
	}
	at, err := time.Parse(time.RFC3339Nano, parts[0])
	if err != nil {
		return LogLine{}, fmt.Errorf("log line %q: %w", line, err)
	}
	return LogLine{at, parts[1], parts[2] == "P", parts[3]}, nil
}
