package script

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"svcproxy/model"
	"svcproxy/proxier"
	"svcproxy/test/dataplane"
	"svcproxy/test/world"
)

// run is one run of a script: its world, its proxy, its manifests.
type run struct {
	t        *testing.T
	script   *script
	plane    dataplane.Plane
	family   model.Family
	world    *world.World
	dir      string
	settings proxier.Settings
	proxy    *proxy // nil until something is applied
	stopped  bool
	conns    map[string]*world.Conn
	// chosen are the places that `stick` named.
	chosen map[string]string
}

// patience is how long anything may take that must come.
const patience = 10 * time.Second

// ports are what every pod and host serves.
var ports = map[model.Protocol][]uint16{model.TCP: {8080, 9090}, model.UDP: {5353, 5354}, model.SCTP: {9000}}

func newRun(t *testing.T, s *script, plane dataplane.Plane, f model.Family) *run {
	t.Helper()
	r := &run{
		t: t, script: s, plane: plane, family: f, dir: t.TempDir(),
		world: world.New(t, world.Config{Pods: 3, RemotePods: 2, Hosts: 2, Ports: ports, Families: s.worldFamilies(f)}),
		conns: map[string]*world.Conn{}, chosen: map[string]string{},
	}
	if err := r.set("clusterCIDR=10.244.0.0/16,fd00:10:244::/56"); err != nil {
		t.Fatal(err)
	}
	r.settings.Mode = modeOf(plane)
	return r
}

func modeOf(p dataplane.Plane) proxier.Mode {
	if p == dataplane.NFTables {
		return proxier.NFTables
	}
	return proxier.IPTables
}

// all takes every step. Probes that follow each other are made at once.
func (r *run) all() {
	r.t.Helper()
	r.writeCluster()
	for i := 0; i < len(r.script.steps); i++ {
		s, applies, err := r.applies(r.script.steps[i])
		if err != nil {
			r.fatal(s, err)
		}
		if !applies {
			continue
		}
		if s.word(0) != "probe" {
			if err := r.take(s); err != nil {
				r.fatal(s, err)
			}
			continue
		}
		batch := []step{s}
		for ; i+1 < len(r.script.steps); i++ {
			next, applies, err := r.applies(r.script.steps[i+1])
			if err != nil {
				r.fatal(next, err)
			}
			if applies && next.word(0) != "probe" {
				break
			}
			if applies {
				batch = append(batch, next)
			}
		}
		r.probes(batch)
	}
}

func (r *run) fatal(s step, err error) {
	r.t.Helper()
	r.t.Fatalf("%s:%d: %s\n\t%v", r.script.name, s.line, s.text, err)
}

// applies strips the conditions from a step and tells whether they hold here. It also puts in what `stick`
// chose.
func (r *run) applies(s step) (step, bool, error) {
	text := s.text
	for name, place := range r.chosen {
		text = strings.ReplaceAll(text, "$"+name, place)
	}
	holds := map[string]bool{
		r.family.String(): true, r.plane.Name: true, string(r.settings.Mode): true,
	}
	all := true
	for strings.HasPrefix(text, "[") {
		condition, rest, ok := strings.Cut(text[1:], "] ")
		if !ok {
			break
		}
		switch condition {
		case "IPv4", "IPv6", "nftables", "iptables", "iptables-legacy", "iptables-nft":
		default:
			return s, false, fmt.Errorf("no condition %q", condition)
		}
		all, text = all && holds[condition], strings.TrimSpace(rest)
	}
	return step{s.line, text, strings.Fields(text)}, all, nil
}

// take takes one step that is no probe.
func (r *run) take(s step) error {
	commands := map[string]func(step) error{
		"settings": r.cmdSettings, "apply": r.cmdApply, "remove": r.cmdRemove, "edit": r.cmdEdit, "stop": r.cmdStop, "start": r.cmdStart,
		"node-address": r.cmdNodeAddress, "stick": r.cmdStick, "stray": r.cmdStray, "view": r.cmdView, "rules": r.cmdRules,
		"open": r.cmdOpen, "ask": r.cmdAsk, "flows": r.cmdFlows, "log": r.cmdLog, "health": r.cmdHealth, "serve": r.cmdServe, "on": r.cmdOn, "route-localhost": r.cmdRouteLocalhost, "blocked": r.cmdBlocked,
	}
	command := commands[s.word(0)]
	if command == nil {
		return fmt.Errorf("no command %q", s.word(0))
	}
	return command(s)
}

// cmdApply adds manifests and waits until the kernel holds them: apply FILE...
func (r *run) cmdApply(s step) error {
	for _, name := range s.words[1:] {
		content, ok := r.script.files[name]
		if !ok {
			return fmt.Errorf("no file %s", name)
		}
		if err := r.write(name, content); err != nil {
			return err
		}
	}
	return r.programmed()
}

// write replaces a manifest at once.
func (r *run) write(name, content string) error {
	temporary := filepath.Join(r.dir, "."+name)
	if err := os.WriteFile(temporary, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(r.dir, name))
}

// cmdRemove removes manifests: remove FILE...
func (r *run) cmdRemove(s step) error {
	for _, name := range s.words[1:] {
		if err := os.Remove(filepath.Join(r.dir, name)); err != nil {
			return err
		}
	}
	return r.programmed()
}

// cmdEdit changes a text wherever it stands in a manifest: edit FILE OLD => NEW.
func (r *run) cmdEdit(s step) error {
	path := filepath.Join(r.dir, s.word(1))
	old, replacement, ok := strings.Cut(s.rest(2)+" ", " => ")
	replacement = strings.TrimSuffix(replacement, " ")
	if !ok {
		return fmt.Errorf("usage: edit FILE OLD => NEW")
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(content), old) {
		return fmt.Errorf("%s does not hold %q", s.word(1), old)
	}
	if err := r.write(s.word(1), strings.ReplaceAll(string(content), old, replacement)); err != nil {
		return err
	}
	return r.programmed()
}

// cmdStop ends the proxy. What is applied, edited and removed from then on waits for the next: stop
func (r *run) cmdStop(step) error {
	r.proxy.stop()
	r.stopped = true
	return nil
}

// cmdStart starts a proxy after stop: start
func (r *run) cmdStart(step) error {
	r.proxy, r.stopped = nil, false
	return r.programmed()
}

// cmdNodeAddress gives the node's kernel one more address: node-address ADDRESS
func (r *run) cmdNodeAddress(s step) error {
	a, err := netip.ParseAddr(s.word(1))
	if err == nil {
		r.world.AddNodeAddr(r.t, a)
	}
	return err
}

// cmdServe makes a place answer on one more port, at its addresses or at its loopback one:
// serve PLACE [localhost] PORT/PROTOCOL
func (r *run) cmdServe(s step) error {
	p := r.world.Place(s.word(1))
	if p == nil {
		return fmt.Errorf("no place %q", s.word(1))
	}
	number, protocol, err := parsePort(s.words[len(s.words)-1])
	if err != nil {
		return err
	}
	if s.word(2) != "localhost" {
		p.Serve(r.t, protocol, number)
		return nil
	}
	localhost, err := r.addr("localhost")
	if err == nil {
		p.ServeAt(r.t, localhost, protocol, number)
	}
	return err
}

// poll calls check until it returns nil, and returns its last error after the time.
func (r *run) poll(d time.Duration, check func() error) error {
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-deadline.C:
			return fmt.Errorf("not within %v: %w", d, err)
		}
	}
}

// defaults are the objects that every script's cluster has, unless it has a file of that name.
var defaults = map[string]string{
	"node.yaml": `apiVersion: v1
kind: Node
metadata:
  name: node-a
  labels:
    topology.kubernetes.io/zone: zone-a
spec:
  podCIDRs: ["10.244.0.0/24", "fd00:10:244::/64"]
status:
  addresses:
  - {type: InternalIP, address: 172.18.0.2}
  - {type: InternalIP, address: "fc00:f853:ccd:e793::2"}
`,
	"servicecidr.yaml": `apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata:
  name: kubernetes
spec:
  cidrs: ["10.96.0.0/16", "fd00:10:96::/112"]
`,
}

func (r *run) writeCluster() {
	r.t.Helper()
	for name, content := range defaults {
		if own, ok := r.script.files[name]; ok {
			content = own
		}
		if err := r.write(name, content); err != nil {
			r.t.Fatal(err)
		}
	}
}
