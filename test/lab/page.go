// Package lab runs the commands of docs/lab.md, in order, in one shell, and compares what they print with
// what the page says. In the page
//
//   - a block fenced as ```console is run; ```console root only where the tests have root's cgroups;
//   - a line that begins with "$ " is a command, further lines as long as they end in a backslash;
//   - what follows is its output, in which … stands for anything within a line, and a line of … alone for any lines.
//
// A command must succeed: one that shows a failure says so in the command itself (|| echo "exit $?").
package lab

import (
	"fmt"
	"regexp"
	"strings"
)

// A Step is a command of the page with the output that the page says it has.
type Step struct {
	Line    int // of the page, from 1
	Root    bool
	Command string
	Output  []string
}

const (
	fence   = "```"
	console = "```console"
	prompt  = "$ "
	elided  = "…"
)

// Steps reads a page. A block that is not closed, or output before any command, is an error that names the line.
func Steps(page string) ([]Step, error) {
	var steps []Step
	inside, root := 0, false // the line of the block's fence
	var current *Step
	for i, line := range strings.Split(page, "\n") {
		number := i + 1
		switch {
		case inside == 0 && strings.HasPrefix(line, console):
			tag := strings.TrimSpace(strings.TrimPrefix(line, console))
			if tag != "" && tag != "root" {
				return nil, fmt.Errorf("line %d: a block of kind %q", number, tag)
			}
			inside, root, current = number, tag == "root", nil
		case inside == 0:
		case line == fence:
			inside = 0
		case current != nil && strings.HasSuffix(current.Command, "\\") && len(current.Output) == 0:
			current.Command += "\n" + line
		case strings.HasPrefix(line, prompt):
			steps = append(steps, Step{Line: number, Root: root, Command: strings.TrimPrefix(line, prompt)})
			current = &steps[len(steps)-1]
		case current == nil:
			return nil, fmt.Errorf("line %d: output without a command: %q", number, line)
		default:
			current.Output = append(current.Output, line)
		}
	}
	if inside != 0 {
		return nil, fmt.Errorf("line %d: the block is not closed", inside)
	}
	return steps, nil
}

// Matches tells whether a command printed what the page says.
func Matches(want []string, got string) bool {
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for _, line := range want {
		if strings.TrimSpace(line) == elided {
			pattern.WriteString(`(?:[^\n]*\n)*?`)
			continue
		}
		parts := strings.Split(strings.TrimRight(line, " "), elided)
		for i, p := range parts {
			parts[i] = regexp.QuoteMeta(p)
		}
		pattern.WriteString(strings.Join(parts, `[^\n]*`) + ` *\n`)
	}
	pattern.WriteString(`\z`)
	if got != "" && !strings.HasSuffix(got, "\n") {
		got += "\n"
	}
	return regexp.MustCompile(pattern.String()).MatchString(got)
}
