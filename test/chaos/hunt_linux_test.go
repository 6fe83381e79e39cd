package chaos

import (
	"bytes"
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/moby/sys/reexec"

	"svcproxy/model"
	"svcproxy/test/dataplane"
)

// hunted is a victim as the hunter sees it.
type hunted struct {
	cmd    *exec.Cmd
	orders orders
	out    *gob.Encoder
	// events is closed when the victim is gone.
	events chan event
	log    bytes.Buffer
}

// start starts a victim on the node, with so many variables besides the environment.
func (w *world) start(t *testing.T, plane dataplane.Plane, f fault, env ...string) *hunted {
	t.Helper()
	v := &hunted{orders: orders{plane.Name, families(), f}, events: make(chan event)}
	v.cmd = &exec.Cmd{Path: reexec.Self(), Args: []string{victimCommand}, Env: append(os.Environ(), env...), Stderr: &v.log}
	stdin, err := v.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.node.Start(v.cmd); err != nil {
		t.Fatal(err)
	}
	v.out = gob.NewEncoder(stdin)
	go func() {
		defer close(v.events)
		in := gob.NewDecoder(stdout)
		for {
			var e event
			if in.Decode(&e) != nil {
				return
			}
			v.events <- e
		}
	}()
	v.send(t, v.orders)
	return v
}

func (v *hunted) send(t *testing.T, message any) {
	t.Helper()
	if err := v.out.Encode(message); err != nil {
		t.Fatalf("the victim does not listen: %v\n%s", err, v.kill())
	}
}

// kill kills the victim with SIGKILL, waits until it is gone, and returns what it logged.
func (v *hunted) kill() string {
	err := v.cmd.Process.Kill()
	for range v.events {
	}
	var exit *exec.ExitError
	if wait := v.cmd.Wait(); !errors.As(wait, &exit) {
		err = errors.Join(err, wait)
	}
	if err != nil {
		return fmt.Sprintf("%v\n%s", err, v.log.String())
	}
	return v.log.String()
}

// tooLong ends a test whose victim does nothing any more.
const tooLong = time.Minute

// wait waits until every family has applied something, and tells whether the victim stopped at its fault
// instead. A family that stopped is waited for no longer, nor are the others.
func (v *hunted) wait(t *testing.T) (stoppedAtFault bool) {
	t.Helper()
	late := time.NewTimer(tooLong)
	defer late.Stop()
	for done := map[model.Family]bool{}; len(done) < len(v.orders.Families); {
		select {
		case e, alive := <-v.events:
			switch {
			case !alive:
				t.Fatalf("the victim died by itself:\n%s", v.kill())
			case e.What == failed:
				t.Errorf("%s, %s: apply failed: %s", v.orders.Plane, e.Family, e.Err)
			case e.What == stopped:
				return true
			default:
				done[e.Family] = true
			}
		case <-late.C:
			t.Fatalf("nothing happened for %v:\n%s", tooLong, v.kill())
		}
	}
	return false
}

// waitUntil takes events until a time has come.
func (v *hunted) waitUntil(t *testing.T, moment <-chan time.Time) {
	t.Helper()
	for {
		select {
		case e, alive := <-v.events:
			if !alive {
				t.Fatalf("the victim died by itself:\n%s", v.kill())
			}
			if e.What == failed {
				t.Errorf("%s, %s: apply failed: %s", v.orders.Plane, e.Family, e.Err)
			}
		case <-moment:
			return
		}
	}
}
