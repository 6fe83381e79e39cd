package kubelet

import (
	"context"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/types"

	"svcproxy/sandbox"
)

// Streams are what a caller of Attach gives to a container; each may be nil. With a terminal all output is Stdout's.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// attachment is one who gets a container's output.
type attachment struct {
	chunks chan chunk
}

type chunk struct {
	stream string
	data   []byte
}

// attachBacklog is how many pieces of output one who is attached may lag behind; then he loses the next.
const attachBacklog = 1024

// pass gives output to those attached, or keeps it for the first.
func (o *output) pass(stream string, data []byte) {
	if o.replay != nil {
		o.replay = append(o.replay, data...)
		o.replay = o.replay[max(0, len(o.replay)-attachReplay):]
	}
	for a := range o.attached {
		select {
		case a.chunks <- chunk{stream, append([]byte(nil), data...)}:
		default:
		}
	}
}

// Attach connects a caller to a container's own streams until its run ends or ctx does. The first caller of a run also gets
// the end of what was printed before. Standard input goes to the container if its spec has stdin; with stdinOnce it
// ends for the container when it ends for the first caller.
func (k *Kubelet) Attach(ctx context.Context, name types.NamespacedName, container string, s Streams) error {
	w, err := k.worker(name)
	if err != nil {
		return err
	}
	c, err := w.container(container)
	if err != nil {
		return err
	}
	a, input, once, done, err := c.out.attach(s)
	if err != nil {
		return fmt.Errorf("pod %s: container %s: %w", name, c.rec.name, err)
	}
	defer c.out.detach(a)
	if s.Stdin != nil {
		// The copy ends with its caller's stream, which may be later than the container.
		go func() {
			_, _ = io.Copy(input, s.Stdin)
			if once {
				_ = input.Close()
			}
		}()
	}
	for {
		select {
		case piece := <-a.chunks:
			if err := s.write(piece); err != nil {
				return err
			}
		case <-done:
			return s.drain(a)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (o *output) attach(s Streams) (a *attachment, input io.WriteCloser, once bool, done <-chan struct{}, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.done == nil:
		return nil, nil, false, nil, fmt.Errorf("it is not running")
	case s.Stdin != nil && o.input == nil:
		return nil, nil, false, nil, fmt.Errorf("it has no standard input: its spec needs stdin: true")
	}
	a = &attachment{chunks: make(chan chunk, attachBacklog)}
	if len(o.replay) > 0 {
		a.chunks <- chunk{"stdout", o.replay}
	}
	o.replay = nil
	o.attached[a] = true
	once = o.once && s.Stdin != nil
	if once {
		o.once = false
	}
	return a, o.input, once, o.done, nil
}

func (o *output) detach(a *attachment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.attached, a)
}

func (s Streams) write(c chunk) error {
	to := s.Stdout
	if c.stream == "stderr" {
		to = s.Stderr
	}
	if to == nil {
		return nil
	}
	_, err := to.Write(c.data)
	return err
}

// drain writes what is left.
func (s Streams) drain(a *attachment) error {
	for {
		select {
		case piece := <-a.chunks:
			if err := s.write(piece); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// Resize sets the size of the terminal of a container whose spec has tty.
func (k *Kubelet) Resize(name types.NamespacedName, container string, size sandbox.Window) error {
	r, err := k.runOf(name, container)
	if err != nil {
		return err
	}
	return r.task.Resize(size)
}
