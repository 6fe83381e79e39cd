package kubelet

import (
	"context"
	"io"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kubelet's limits of a termination message: from its file, and from the end of the log.
const (
	maxTerminationMessage = 4096
	maxLogMessage         = 2048
	maxLogMessageLines    = 80
)

func terminated(reason, message string, code int, began, ended time.Time) v1.ContainerStateTerminated {
	return v1.ContainerStateTerminated{
		ExitCode: int32(code), Reason: reason, Message: message,
		StartedAt: metav1.NewTime(began), FinishedAt: metav1.NewTime(ended),
	}
}

const exitKilled = 128 + 9

// verdict is how a run ended: OOMKilled if it was killed and the kernel did so for want of memory.
func (c *container) verdict(r *run, early bool, order kill) v1.ContainerStateTerminated {
	code := r.task.Status().Code
	reason := "Error"
	if code == 0 {
		reason = "Completed"
	}
	message := c.terminationMessage(code)
	if code == exitKilled && !early && c.oomKills() > r.ooms {
		reason = "OOMKilled"
		text := c.oomMessage()
		c.w.event(v1.EventTypeWarning, "OOMKilled", c.rec.name, "%s", text)
		if message == "" {
			message = text
		}
	}
	if message == "" {
		message = order.message
	}
	return terminated(reason, message, code, r.began, c.w.k.clock.Now())
}

// oomMessage names the container, its pod and the limit that counts.
func (c *container) oomMessage() string {
	text := "container " + c.rec.name + " of pod " + c.w.name.String() + " was killed for want of memory"
	if spec := c.w.spec(c.rec.name); spec != nil {
		if limit, ok := spec.Resources.Limits[v1.ResourceMemory]; ok {
			text += ": memory limit " + limit.String()
		}
	}
	return text
}

func (c *container) oomKills() uint64 {
	g := c.w.groupOf(c.rec.name)
	if g == nil {
		return 0
	}
	return g.OOMKillCount()
}

// watchMemory reports what the kernel kills while the container's own program goes on, such as a command of exec.
func (c *container) watchMemory(ctx context.Context, r *run) {
	g := c.w.groupOf(c.rec.name)
	if g == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kills := g.OOMKills(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.task.Done():
			return // the verdict tells
		case _, ok := <-kills:
			if !ok {
				return
			}
			if c.survives(ctx, r) {
				c.w.event(v1.EventTypeWarning, "OOMKilled", c.rec.name, "a process of %s", c.oomMessage())
			}
		}
	}
}

// survives tells whether the container's own program outlives what was just killed in it: it may be what was killed,
// and the news of that be on their way.
func (c *container) survives(ctx context.Context, r *run) bool {
	timer := c.w.k.clock.NewTimer(oomSettle)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-r.task.Done():
	case <-ctx.Done():
	}
	return false
}

const oomSettle = 100 * time.Millisecond

// terminationMessage is what the container left in its termination message file or, by its policy, in its log.
func (c *container) terminationMessage(code int) string {
	spec := c.w.spec(c.rec.name)
	if spec == nil {
		return ""
	}
	if text := readHead(c.w.terminationFile(c.rec.name), maxTerminationMessage); text != "" {
		return text
	}
	if spec.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError && code != 0 {
		return c.out.tail(maxLogMessageLines, maxLogMessage)
	}
	return ""
}

func readHead(path string, size int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, size))
	if err != nil {
		return ""
	}
	return string(text)
}
