package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"svcproxy/model"
)

// self is this program, for a process that runs it in a pod, also where its file is gone.
const self = "/proc/self/exe"

// Options say how the story is told.
type Options struct {
	// Mode is the backend: "nftables" or "iptables".
	Mode   string
	Out    io.Writer
	Colour bool
}

// story is the demo as it goes on.
type story struct {
	*report
	*cluster
	mode string
	// fatal ends the story: nothing after it could be right.
	fatal error
}

// Run tells the whole story, in the namespaces of the calling process, which must be its own
// (sandbox.Isolated). The error tells how many checks failed.
func Run(ctx context.Context, o Options) (err error) {
	began := time.Now()
	if err := widenPath(); err != nil {
		return err
	}
	r := &report{out: o.Out, colour: o.Colour}
	o.Mode = usable(o.Mode, r.say)
	c, err := newCluster(ctx)
	if err != nil {
		return fmt.Errorf("building the node and its pods: %w", err)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	s := &story{report: r, cluster: c, mode: o.Mode}
	fmt.Fprintf(o.Out, "%s\n", s.paint(bold, "svcproxy demo ("+o.Mode+"): one node, six pods and four Services in a network of their own"))
	for _, step := range []func(context.Context){
		s.showNode, s.start, s.lookUp, s.fetch, s.split, s.outside, s.dump, s.walk, s.connections, s.losePod,
	} {
		step(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if s.fatal != nil {
			fmt.Fprintf(o.Out, "\nThe log of svcproxy and the pods:\n%s", c.log.String())
			return s.fatal
		}
	}
	fmt.Fprintf(o.Out, "\n%d checks passed, %d failed, in %.1f s. Nothing is left behind.\n", s.passed, s.failed, time.Since(began).Seconds())
	if s.failed > 0 {
		fmt.Fprintf(o.Out, "\nThe log of svcproxy and the pods:\n%s", c.log.String())
		return fmt.Errorf("demo: %d checks failed", s.failed)
	}
	return nil
}

// show runs a command line, with the prompt of a place, and prints both. A tool that is missing is named,
// and then ok is false without anything having failed.
func (s *story) show(ctx context.Context, place, program, line string, run func(context.Context, string) (string, error)) (out string, ok bool) {
	s.command(place, line)
	if program != "svcproxy" {
		if err := missing(s.mode, program); err != nil {
			s.say("(%v)", err)
			return "", false
		}
	}
	out, err := run(ctx, line)
	s.output(out)
	if err != nil {
		s.check(false, "%v", err)
		return out, false
	}
	return out, true
}

func (s *story) fromNode(ctx context.Context, program, line string) (string, bool) {
	return s.show(ctx, "node", program, line, s.onNode)
}

func (s *story) fromClient(ctx context.Context, program, line string) (string, bool) {
	return s.show(ctx, "client", program, line, s.onClient)
}

// errEnded says that svcproxy ended by itself, so that nothing is worth waiting for.
var errEnded = errors.New("svcproxy run has ended")

// until asks again until check says nil or errEnded, or gives its last error after the time-out.
func until(ctx context.Context, timeout time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil || errors.Is(err, errEnded) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// chainOf names the chain of a kube-dns port, in the words of the iptables mode.
func chainOf(port string, protocol model.Protocol) string {
	return model.ServiceChain(model.ServicePortName{Service: kubeDNS, Port: port, Protocol: protocol})
}
