package escape

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"

	"svcproxy/sandbox"
	"svcproxy/sandbox/confine"
	"svcproxy/sandbox/image"
	"svcproxy/test/nstest"
)

// prison is a pod to attack from, and the host around it.
type prison struct {
	*sandbox.Pod
	image string // the folder with the attacker's program and its libraries
	// marker is a file of the host that no pod may see, secret its content.
	marker, secret string
}

// newPrison makes a pod that lasts as long as the test.
func newPrison(t *testing.T, pause sandbox.PauseConfig) *prison {
	t.Helper()
	nstest.Require(t)
	world := theWorld(t)
	p := &prison{image: world.image, secret: "secret of " + t.Name()}
	p.marker = filepath.Join(t.TempDir(), "marker")
	if err := os.WriteFile(p.marker, []byte(p.secret), 0o666); err != nil {
		t.Fatal(err)
	}
	pause.Users = users(t)
	number := world.pods.Add(1)
	pod, err := world.node.AddPod(sandbox.PodConfig{
		Name:  fmt.Sprintf("attacker-%d", number),
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(number)})}, Pause: &pause,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pod.Close(); err != nil {
			t.Error(err)
		}
	})
	p.Pod = pod
	return p
}

// hostUsers are the pods' where the tests are root on the machine: nobody else's.
var hostUsers = sandbox.UserRange{Base: 1 << 30, Size: 65536}

// users are the pods': a range of their own, or the ordinary user who runs the tests.
func users(t *testing.T) sandbox.UserRange {
	t.Helper()
	if isRoot(t) {
		return hostUsers
	}
	return sandbox.UserRange{}
}

// isRoot tells whether the tests run as root of the machine, not of a user namespace.
func isRoot(t *testing.T) bool {
	t.Helper()
	mapped, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(mapped))
	return len(fields) == 3 && len(fields[2]) > len("65536")
}

// workshop is a folder of this test process alone, in memory, where the image is.
const workshop = "/mnt"

// world is what all tests of this process share; it ends with the process.
type world struct {
	node  *sandbox.Node
	pods  atomic.Int32
	image string
}

var (
	worldOnce sync.Once
	made      world
	worldErr  error
)

func theWorld(t *testing.T) *world {
	t.Helper()
	base := users(t).Base
	worldOnce.Do(func() {
		if made.image, worldErr = makeImage(base); worldErr == nil {
			made.node, worldErr = sandbox.NewNode(sandbox.NodeConfig{Name: "node"})
		}
	})
	if worldErr != nil {
		t.Fatal(worldErr)
	}
	return &made
}

func makeImage(uidBase int) (string, error) {
	if err := unix.Mount("tmpfs", workshop, "tmpfs", 0, "mode=0755"); err != nil {
		return "", err
	}
	program := filepath.Join(workshop, attackerCommand)
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := os.OpenFile(program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(to, from); err != nil {
		return "", err
	}
	if err := to.Close(); err != nil {
		return "", err
	}
	store, err := image.Open(image.Options{Dir: workshop + "/images", UIDBase: uidBase})
	if err != nil {
		return "", err
	}
	reference, err := image.ParseReference("host:" + program)
	if err != nil {
		return "", err
	}
	img, err := store.Get(context.Background(), reference)
	if err != nil {
		return "", err
	}
	if len(img.Layers) != 1 {
		return "", fmt.Errorf("%d layers, want one", len(img.Layers))
	}
	return img.Layers[0], nil
}

// prisoner is an attacker at work.
type prisoner struct {
	*sandbox.Process
	output chan []byte
	stdin  *os.File
}

// config is a container with the attacker.
func (p *prison) config(attack string) sandbox.ContainerConfig {
	return sandbox.ContainerConfig{
		Name: attack, Layers: []string{p.image}, Args: []string{attackerCommand, attack}, Profile: prisonProfile(),
		Env: []string{"PATH=" + workshop, markerEnv + "=" + p.marker, secretEnv + "=" + p.secret, "GORACE=atexit_sleep_ms=0"},
	}
}

func prisonProfile() confine.Profile {
	return confine.Profile{Capabilities: confine.DefaultCapabilities()}
}

// unprotected takes away all that keeps the attacker in, save namespaces and users: a
// control, in which what is tried must work.
func unprotected(t *testing.T) func(*sandbox.ContainerConfig) {
	t.Helper()
	all, err := capability.ListSupported()
	if err != nil {
		t.Fatal(err)
	}
	profile := confine.Profile{AllowPrivilegeEscalation: true, Seccomp: confine.Unconfined}
	for _, c := range all {
		profile.Capabilities = append(profile.Capabilities, "CAP_"+strings.ToUpper(c.String()))
	}
	return func(cfg *sandbox.ContainerConfig) { cfg.Profile = profile }
}

// start starts the attacker. Its standard input is open until the test says that it is
// enough.
func (p *prison) start(t *testing.T, attack string, edits ...func(*sandbox.ContainerConfig)) *prisoner {
	t.Helper()
	a, err := p.tryStart(t, attack, edits...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (p *prison) tryStart(t *testing.T, attack string, edits ...func(*sandbox.ContainerConfig)) (*prisoner, error) {
	t.Helper()
	cfg := p.config(attack)
	return newPrisoner(t, func(stdin, stdout *os.File) (*sandbox.Process, error) {
		cfg.Stdin, cfg.Stdout, cfg.Stderr = stdin, stdout, stdout
		for _, edit := range edits {
			edit(&cfg)
		}
		c, err := p.StartContainer(cfg)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return c.Process, nil
	})
}

func newPrisoner(t *testing.T, start func(stdin, stdout *os.File) (*sandbox.Process, error)) (*prisoner, error) {
	t.Helper()
	inside, stdin, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	stdout, outside, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	a := &prisoner{stdin: stdin, output: make(chan []byte, 1)}
	t.Cleanup(func() { stdin.Close() })
	if a.Process, err = start(inside, outside); err != nil {
		stdout.Close()
		return nil, err
	}
	go func() {
		defer stdout.Close()
		text, _ := io.ReadAll(stdout)
		a.output <- text
	}()
	return a, nil
}

// found is what the attacker found when it has ended, or is told that it is enough.
func (a *prisoner) found(t *testing.T) *attacker {
	t.Helper()
	a.stdin.Close()
	status := a.Status()
	text := <-a.output
	var result attacker
	if err := json.Unmarshal(text, &result); err != nil || status.Code != 0 {
		t.Fatalf("the attacker ended with %+v and no report (%v):\n%s", status, err, text)
	}
	return &result
}

// held requires that every attempt was refused, and that the attacker got no file but
// its standard streams.
func (a *attacker) held(t *testing.T) {
	t.Helper()
	if len(a.Attempts) == 0 {
		t.Error("nothing was tried")
	}
	for _, try := range a.Attempts {
		if !try.Held {
			t.Errorf("%s: %s", try.Try, try.Got)
		}
	}
	if a.Facts["files"] != "" {
		t.Errorf("the attacker came with open files: %s", a.Facts["files"])
	}
}

// holds runs an attack to its end and requires that it was refused throughout.
func (p *prison) holds(t *testing.T, attack string, edits ...func(*sandbox.ContainerConfig)) *attacker {
	t.Helper()
	a := p.start(t, attack, edits...).found(t)
	a.held(t)
	return a
}

// escapes is the control: without protection the attempts named, at least, succeed.
func (p *prison) escapes(t *testing.T, attack string, tries ...string) {
	t.Helper()
	succeeded := map[string]bool{}
	a := p.start(t, attack, unprotected(t)).found(t)
	for _, try := range a.Attempts {
		succeeded[try.Try] = !try.Held
	}
	for _, try := range tries {
		if !succeeded[try] {
			t.Errorf("without protection %q is refused too, which shows nothing: %+v", try, a.Attempts)
		}
	}
}
