package inspect

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"svcproxy/model"
)

// ANSI colours of the tree.
const (
	plain  = "\x1b[0m"
	bold   = "\x1b[1m"
	faint  = "\x1b[2m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
)

type tree struct {
	b     *bytes.Buffer
	color bool
}

// writeTree draws for each Service port what a packet meets: the frontends, then the chain, then the
// endpoints that the chain chooses from.
func writeTree(b *bytes.Buffer, v model.View, o Options) error {
	t := tree{b: b, color: o.Color}
	fmt.Fprintln(b, t.paint(faint, headline(v)))
	for _, s := range v.Services {
		t.service(s)
	}
	return nil
}

func (t tree) service(s model.ServiceView) {
	fmt.Fprintf(t.b, "\n%s %s\n", t.paint(bold, printable(s.Name)), t.paint(yellow, printable(s.Protocol)))
	for _, f := range s.Frontends {
		fmt.Fprintf(t.b, "├─ %s %s%s\n", printable(f.Type), t.paint(cyan, place(f)), t.action(f))
	}
	if len(s.Endpoints) == 0 {
		fmt.Fprintf(t.b, "└─ %s %s\n", t.paint(faint, chain(s)), t.paint(red, "no endpoints"))
		return
	}
	fmt.Fprintf(t.b, "└─ %s\n", t.paint(faint, chain(s)))
	width := 0
	for _, e := range s.Endpoints {
		width = max(width, utf8.RuneCountInString(addrPort(e.Address, e.Port)))
	}
	for i, e := range s.Endpoints {
		branch := "├─"
		if i == len(s.Endpoints)-1 {
			branch = "└─"
		}
		address := addrPort(e.Address, e.Port)
		fmt.Fprintf(t.b, "   %s %s %s", branch, t.paint(green, fmt.Sprintf("%5s", share(e.Probability))), t.paint(cyan, address))
		if e.Chain != "" {
			gap := width - utf8.RuneCountInString(address) + 2
			fmt.Fprintf(t.b, "%*s%s", gap, "", t.paint(faint, printable(e.Chain)))
		}
		t.b.WriteByte('\n')
	}
}

func (t tree) action(f model.FrontendView) string {
	if f.Action == "" {
		return ""
	}
	return "  " + t.paint(red, printable(f.Action))
}

func (t tree) paint(color, s string) string {
	if !t.color {
		return s
	}
	return color + s + plain
}
