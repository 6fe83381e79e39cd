package iptables

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"svcproxy/model"
)

// Parse reads what iptables-save prints, of either kernel API, and takes from it what belongs to the
// Service proxy of the node, be it svcproxy or kube-proxy. Tables and chains of others are passed over. Rules
// in a form that it does not know are others' too, and kept as they are written where they are in the
// proxy's chains. The error is that the text breaks off in the middle of a table.
func Parse(f model.Family, text string) (*Ruleset, error) {
	p := parser{ruleset: newRuleset(f), ended: map[string]bool{}}
	for line := range strings.Lines(text) {
		p.line(strings.TrimSuffix(line, "\n"))
	}
	if p.table != nil {
		return nil, fmt.Errorf("iptables-save: table %s has no COMMIT", p.table.Name)
	}
	return p.ruleset, nil
}

// What iptables-save prints instead of a table that it cannot read, around the table's name.
const (
	unreadableBegin = "# Table `"
	unreadableEnd   = "' is incompatible, use 'nft' tool."
)

// parser reads a ruleset line by line.
type parser struct {
	ruleset *Ruleset
	table   *Table
	fields  []string
	// ended are the built-in chains, after their table's name, that a rule has ended for every packet.
	ended map[string]bool
	// chain and rules are those of the chain that was read last: iptables-save prints chains whole.
	chain string
	rules []Rule
}

func (p *parser) line(line string) {
	switch {
	case line == "":
	case strings.HasPrefix(line, unreadableBegin) && strings.HasSuffix(line, unreadableEnd):
		name := strings.TrimSuffix(strings.TrimPrefix(line, unreadableBegin), unreadableEnd)
		if t := p.ruleset.table(name); t != nil {
			t.unreadable = true
		}
	case line[0] == '*':
		p.table = p.ruleset.table(line[1:])
		if p.table != nil {
			p.table.foreign = map[string]bool{}
		}
	case p.table == nil:
	case line == "COMMIT":
		p.flush()
		p.table = nil
	case line[0] == ':':
		name, _, _ := strings.Cut(line[1:], " ")
		if owned(name) {
			p.table.Chains[name] = nil
		}
	case line[0] == '-', line[0] == '[':
		p.rule(line)
	}
	// What else there is are iptables-save's remarks, and the rest of others' comments with several lines.
}

// flush puts the rules of the chain that was read last where they belong.
func (p *parser) flush() {
	if p.chain != "" {
		p.table.Chains[p.chain] = append(p.table.Chains[p.chain], p.rules...)
		p.chain, p.rules = "", nil
	}
}

// rule reads a line such as "-A CHAIN …", which counters may precede.
func (p *parser) rule(line string) {
	written := spec(line)
	from, text, _ := strings.Cut(written, " ")
	fields, err := split(p.fields[:0], text)
	p.fields = fields
	var r Rule
	if err == nil {
		r, err = parseRule(fields)
	}
	if err != nil {
		r = unread(text)
	}
	if owned(from) {
		if from != p.chain {
			p.flush()
			p.chain = from
		}
		p.rules = append(p.rules, r)
		return
	}
	if !owned(r.Target) {
		if r.endsAll() {
			p.ended[p.table.Name+from] = true
		}
		return
	}
	if builtin(from) {
		p.table.Jumps = append(p.table.Jumps, Jump{from, r, written, p.ended[p.table.Name+from]})
	} else {
		p.table.foreign[r.Target] = true
	}
}

// endsAll tells whether a rule ends its chain for every packet.
func (r Rule) endsAll() bool {
	switch r.Target {
	case targetAccept, targetDrop, targetReject, targetReturn:
		return r == Rule{Target: r.Target, Comment: r.Comment, Options: r.Options}
	}
	return false
}

// unread returns a rule that cannot be read, such as one with a mask that is no prefix.
func unread(text string) Rule {
	for _, verb := range []string{"-j ", "-g "} {
		if i := strings.LastIndex(text, verb); i >= 0 {
			target, options, _ := strings.Cut(text[i+len(verb):], " ")
			return Rule{Other: strings.TrimSpace(text[:i]), Goto: verb == "-g ", Target: target, Options: options}
		}
	}
	return Rule{Other: text}
}

// spec returns a line without counters and command: the chain and the rule.
func spec(line string) string {
	_, spec, _ := strings.Cut(line, "-A ")
	return spec
}

// builtin tells whether a chain is one of the kernel's.
func builtin(chain string) bool {
	switch chain {
	case "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING":
		return true
	}
	return false
}

// parseRule reads the options of a rule.
func parseRule(fields []string) (Rule, error) {
	var r Rule
	p := ruleParser{fields: fields, rule: &r}
	for len(p.fields) > 0 {
		if err := p.option(); err != nil {
			return Rule{}, err
		}
	}
	if r.Target == targetReject && r.Options == "--reject-with "+rejectWith(r.Dest) {
		r.Options = ""
	}
	return r, nil
}

// ruleParser reads options one by one.
type ruleParser struct {
	fields []string
	rule   *Rule
	// match is the last match extension that was named and is not known, and understood the last one that is.
	match, understood string
}

// known are the match extensions whose options have fields in Rule.
var known = map[string]bool{
	"tcp": true, "udp": true, "sctp": true, "comment": true, "mark": true, "conntrack": true, "statistic": true,
	"addrtype": true, "nfacct": true,
}

// option reads one option with its value.
func (p *ruleParser) option() error {
	not := p.fields[0] == "!"
	if not {
		p.fields = p.fields[1:]
		if len(p.fields) == 0 {
			return errors.New("inversion without a match")
		}
	}
	name, value := p.fields[0], ""
	if name == "--random-fully" {
		p.fields, p.rule.RandomFully = p.fields[1:], true
		return nil
	}
	if len(p.fields) > 1 {
		value = p.fields[1]
	}
	took, err := p.take(name, value, not)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", name, value, err)
	case took:
		p.fields = p.fields[min(2, len(p.fields)):]
		return nil
	}
	p.keep(not)
	return nil
}

// keep keeps an option that Rule has no field for as it is written.
func (p *ruleParser) keep(not bool) {
	r := p.rule
	kept := &r.Other
	if r.Target != "" {
		kept = &r.Options
	} else if extension := cmp.Or(p.match, p.understood); extension != "" {
		*kept = join(*kept, "-m "+extension)
		p.match, p.understood = "", ""
	}
	if not {
		*kept = join(*kept, "!")
	}
	for i := 0; len(p.fields) > 0; i++ {
		f := p.fields[0]
		if i > 0 && (f == "!" || len(f) > 1 && f[0] == '-') {
			break
		}
		if !strings.HasPrefix(f, "-") {
			f = string(appendQuoted(nil, f))
		}
		*kept = join(*kept, f)
		p.fields = p.fields[1:]
	}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + " " + b
}

// take puts an option into its field, and tells whether it has one.
func (p *ruleParser) take(name, value string, not bool) (took bool, err error) {
	r := p.rule
	switch name {
	case "-s":
		r.Source, err = parsePrefix(value)
		r.NotSource = not
		return true, err
	case "--mark":
		r.Mark, err = parseMark(value)
		r.NotMark = not
		return true, err
	case "-d":
		r.Dest, err = parsePrefix(value)
		r.NotDest = not
		return true, err
	case "-i":
		r.In, r.NotIn = value, not
		return true, nil
	case "--ctstate":
		r.State, err = parseState(value)
		r.NotState = not
		return true, err
	case "-m":
		if value == "recent" && r.Recent.Op == 0 && p.recent() {
			return true, nil
		}
		p.flushMatch()
		p.match, p.understood = value, ""
		if known[value] {
			p.match = ""
			if value != protocolName(r.Protocol) {
				p.understood = value
			}
		}
		return true, nil
	}
	if not {
		return false, nil
	}
	switch name {
	case "--src-type":
		r.SourceType = parseTypes(value)
		return r.SourceType != 0, nil
	case "--dst-type":
		r.DestType = parseTypes(value)
		return r.DestType != 0, nil
	case "--nfacct-name":
		r.Account = value
	case "-p":
		return p.protocol(value), nil
	case "--comment":
		r.CommentLast = r.State != 0
		r.Comment = value
	case "--dport":
		return p.port(value), nil
	case "--mode":
		return value == "random", nil
	case "--probability":
		r.Probability, err = parseProbability(value)
	case "-j", "-g":
		p.flushMatch()
		r.Target, r.Goto = value, name == "-g"
	case "--to-destination":
		return p.destination(value), nil
	case "--set-xmark":
		r.SetMark, err = parseMark(value)
	default:
		return false, nil
	}
	return true, err
}

// flushMatch keeps a match extension that came without options.
func (p *ruleParser) flushMatch() {
	if p.match != "" {
		p.rule.Other = join(p.rule.Other, "-m "+p.match)
		p.match = ""
	}
}

func (p *ruleParser) protocol(value string) bool {
	switch value {
	case "tcp":
		p.rule.Protocol = model.TCP
	case "udp":
		p.rule.Protocol = model.UDP
	case "sctp":
		p.rule.Protocol = model.SCTP
	default:
		return false
	}
	return true
}

// port reads a single port; ranges stay as they are written.
func (p *ruleParser) port(value string) bool {
	n, err := strconv.ParseUint(value, 10, 16)
	p.rule.DestPort = uint16(n)
	return err == nil && n != 0
}

// destination reads an address and port; other destinations stay as they are written.
func (p *ruleParser) destination(value string) bool {
	to, err := netip.ParseAddrPort(value)
	p.rule.To = to
	return err == nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return host(a), nil
}

func parseMark(s string) (Mark, error) {
	value, mask, masked := strings.Cut(s, "/")
	v, err := strconv.ParseUint(value, 0, 32)
	if err != nil || !masked {
		return Mark{uint32(v), 0xffffffff}, err
	}
	m, err := strconv.ParseUint(mask, 0, 32)
	return Mark{uint32(v), uint32(m)}, err
}

// recent reads the options of a match of recent sources, which follow "-m recent", if Rule has fields for all
// of them, and then leaves the last two of what it read.
func (p *ruleParser) recent() bool {
	read := Recent{Name: "DEFAULT"}
	fields := p.fields[2:]
	for len(fields) > 0 && fields[0] != "-m" && fields[0] != "-j" && fields[0] != "-g" {
		n := 2
		switch fields[0] {
		case "--set", "--rcheck":
			if read.Op != 0 {
				return false
			}
			if read.Op, n = RecentSet, 1; fields[0] == "--rcheck" {
				read.Op = RecentCheck
			}
		case "--reap":
			read.Reap, n = true, 1
		case "--rsource":
			n = 1
		case "--name", "--seconds", "--mask":
			if len(fields) < 2 || !read.option(fields[0], fields[1]) {
				return false
			}
		default:
			return false
		}
		fields = fields[n:]
	}
	if read.Op == 0 || read.Op == RecentSet && (read.Seconds != 0 || read.Reap) {
		return false
	}
	p.rule.Recent = read
	p.fields = p.fields[len(p.fields)-len(fields)-2:]
	return true
}

// option takes one option with a value, and tells whether the value is one that Recent can hold.
func (r *Recent) option(name, value string) bool {
	switch name {
	case "--name":
		r.Name = value
	case "--mask":
		r.IPv6 = value == recentMask(true)
		return r.IPv6 || value == recentMask(false)
	case "--seconds":
		n, err := strconv.ParseUint(value, 10, 32)
		r.Seconds = uint32(n)
		return err == nil && n != 0
	}
	return true
}

// parseTypes reads kinds of addresses, and returns 0 if one is not known.
func parseTypes(s string) AddrType {
	var types AddrType
	for name := range strings.SplitSeq(s, ",") {
		i := indexOf(typeNames, name)
		if i < 0 {
			return 0
		}
		types |= 1 << i
	}
	return types
}

func parseState(s string) (CTState, error) {
	var state CTState
	for name := range strings.SplitSeq(s, ",") {
		i := indexOf(stateNames, name)
		if i < 0 {
			return 0, fmt.Errorf("unknown state %q", name)
		}
		state |= 1 << i
	}
	return state, nil
}

func indexOf(all []string, s string) int {
	for i := range all {
		if all[i] == s {
			return i
		}
	}
	return -1
}

func parseProbability(s string) (Probability, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f < 0 || f > 1 {
		return 0, errors.New("not a probability")
	}
	return Probability(f*float64(ProbabilityOne) + 0.5), nil
}
