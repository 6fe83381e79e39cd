package lab

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// stepTimeout is how long one command of the page may take; none takes a tenth of it on a quiet machine.
const stepTimeout = 2 * time.Minute

// mark ends the output of a command in the shell's; it stands in no page.
const mark = "\x01ended"

// shell is one bash that runs commands one after another, as a reader at a terminal does.
type shell struct {
	input  io.Writer
	output *bufio.Reader
}

// newShell starts a bash in dir with the environment given. It ends with the test.
func newShell(t *testing.T, dir string, env []string) *shell {
	t.Helper()
	cmd := exec.Command("bash", "--noprofile", "--norc")
	cmd.Dir, cmd.Env = dir, env
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	t.Cleanup(func() {
		once.Do(func() {
			input.Close()
			_ = cmd.Process.Kill()
			reader.Close()
			_ = cmd.Wait()
		})
	})
	return &shell{input: input, output: bufio.NewReader(reader)}
}

// run runs a command and returns what it printed, both streams in one, and its exit code.
func (s *shell) run(command string) (output string, code int, err error) {
	// The command reads no more of the shell's own input; the mark stands on a line of its own.
	if _, err := fmt.Fprintf(s.input, "{ %s\n} </dev/null; printf '\\n%%b %%d\\n' '%s' $?\n", command, `\x01ended`); err != nil {
		return "", 0, err
	}
	type end struct {
		output string
		code   int
		err    error
	}
	ended := make(chan end, 1)
	go func() {
		var out strings.Builder
		for {
			line, err := s.output.ReadString('\n')
			if err != nil {
				ended <- end{out.String() + line, 0, fmt.Errorf("the shell ended: %w", err)}
				return
			}
			if rest, ok := strings.CutPrefix(line, mark+" "); ok {
				code := 0
				_, err := fmt.Sscan(rest, &code)
				// The line end before the mark is ours.
				ended <- end{strings.TrimSuffix(out.String(), "\n"), code, err}
				return
			}
			out.WriteString(line)
		}
	}()
	select {
	case e := <-ended:
		return e.output, e.code, e.err
	case <-time.After(stepTimeout):
		return "", 0, fmt.Errorf("not ended after %v", stepTimeout)
	}
}
