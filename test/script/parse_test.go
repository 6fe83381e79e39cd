package script

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"svcproxy/model"
)

// script is a parsed script.
type script struct {
	name  string
	steps []step
	files map[string]string
	// families are those that it runs for, one after another; dual is for both at once.
	families []model.Family
	dual     bool
	// only4 is for a node without IPv6.
	only4 bool
}

// step is one line.
type step struct {
	line  int
	text  string
	words []string
}

// word returns the word i, or nothing.
func (s step) word(i int) string {
	if i < len(s.words) {
		return s.words[i]
	}
	return ""
}

// rest returns what follows the first n words as it is written.
func (s step) rest(n int) string {
	text := s.text
	for range n {
		_, text, _ = strings.Cut(strings.TrimSpace(text), " ")
	}
	return strings.TrimSpace(text)
}

// parse reads a script. Lines that begin with # are what it says to its reader.
func parse(name string, data []byte) (*script, error) {
	archive := txtar.Parse(data)
	s := &script{name: name, files: map[string]string{}, families: model.Families}
	for _, f := range archive.Files {
		if _, twice := s.files[f.Name]; twice {
			return nil, fmt.Errorf("%s: file %s is there twice", name, f.Name)
		}
		s.files[f.Name] = string(f.Data)
	}
	for i, line := range strings.Split(string(archive.Comment), "\n") {
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		st := step{i + 1, text, strings.Fields(text)}
		switch st.words[0] {
		case "families":
			if err := s.chooseFamilies(st.words[1:]); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, st.line, err)
			}
		default:
			s.steps = append(s.steps, st)
		}
	}
	return s, nil
}

func (s *script) chooseFamilies(words []string) error {
	s.families = nil
	for _, w := range words {
		switch w {
		case "dual":
			s.families, s.dual = []model.Family{model.IPv4}, true
		case "IPv4-only-node":
			s.families, s.only4 = []model.Family{model.IPv4}, true
		case "IPv4":
			s.families = append(s.families, model.IPv4)
		case "IPv6":
			s.families = append(s.families, model.IPv6)
		default:
			return fmt.Errorf("no family %q", w)
		}
	}
	return nil
}

// in returns the script as it is for a family: scripts are written in IPv4.
func (s *script) in(f model.Family) *script {
	if f == model.IPv4 {
		return s
	}
	c := *s
	c.steps = slices.Clone(s.steps)
	for i, st := range c.steps {
		text := toIPv6(st.text)
		c.steps[i] = step{st.line, text, strings.Fields(text)}
	}
	c.files = map[string]string{}
	for name, content := range s.files {
		c.files[name] = toIPv6(content)
	}
	return &c
}

// The ranges of a world and of scripts, and what they are in IPv6. The longer ones come first.
var ranges = []struct{ v4, v6 string }{
	{"10.244.1.", "fd00:10:244:1::"},
	{"10.244.0.", "fd00:10:244::"},
	{"10.96.0.", "fd00:10:96::"},
	{"172.18.0.", "fc00:f853:ccd:e793::"},
	{"192.0.2.", "2001:db8:192::"},
	{"198.51.100.", "2001:db8:198::"},
	{"203.0.113.", "2001:db8:203::"},
}

// singles are addresses and ranges that no pattern translates.
var singles = map[string]string{
	"127.0.0.1": "::1", "127.0.0.0/8": "::1/128", "0.0.0.0": "::", "0.0.0.0/0": "::/0",
	"169.254.1.1": "fe80::1", "224.0.0.1": "ff02::1", "255.255.255.255": "ff02::2",
	"10.244.0.0/16": "fd00:10:244::/56", "10.244.0.0/24": "fd00:10:244::/64", "10.244.1.0/24": "fd00:10:244:1::/64",
	"10.96.0.0/16": "fd00:10:96::/112", "172.18.0.0/16": "fc00:f853:ccd:e793::/64",
}

var (
	address4    = regexp.MustCompile(`\b\d{1,3}(?:\.\d{1,3}){3}(/\d+)?(:\d+)?`)
	addressType = regexp.MustCompile(`(addressType: |- )IPv4\b`)
)

// toIPv6 translates every address in a text.
func toIPv6(text string) string {
	text = addressType.ReplaceAllString(text, "${1}IPv6")
	return address4.ReplaceAllStringFunc(text, func(found string) string {
		parts := address4.FindStringSubmatch(found)
		prefix, port := parts[1], parts[2]
		addr := addr6(strings.TrimSuffix(strings.TrimSuffix(found, port), prefix), prefix)
		if port != "" {
			return "[" + addr + "]" + port
		}
		return addr
	})
}

func addr6(v4, prefix string) string {
	if a, ok := singles[v4+prefix]; ok {
		return a
	}
	switch prefix {
	case "":
	case "/32":
		return addr6(v4, "") + "/128"
	default:
		return "untranslatable-range:" + v4 + prefix
	}
	for _, r := range ranges {
		if last, ok := strings.CutPrefix(v4, r.v4); ok {
			return r.v6 + last
		}
	}
	return "untranslatable:" + v4
}
