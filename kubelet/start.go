package kubelet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// errImageName is what an image reference is that no retry will make right.
var errImageName = errors.New("couldn't parse image reference")

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// start runs the container once.
func (c *container) start(l *life) (*run, error) {
	spec := c.w.spec(c.rec.name)
	if spec.Image == "" {
		return nil, &startError{reason: "InvalidImageName", err: errors.New("the container has no image")}
	}
	img, err := c.w.k.machine.Image(l.ctx, spec.Image)
	if err != nil {
		return nil, imageError(spec.Image, err)
	}
	c.w.event(v1.EventTypeNormal, "Pulled", c.rec.name, "Container image %q is present", spec.Image)
	setup, err := c.setup(spec, img)
	if err != nil {
		return nil, err
	}
	id, began := newID(), c.w.k.clock.Now()
	c.w.change(func() {
		c.rec.attempts()
		c.rec.id, c.rec.imageID = id, img.ID
	})
	c.out.begins(c.w.restartsOf(c.rec), spec.TTY)
	r := &run{setup: setup, began: began, ooms: c.oomKills(), started: make(chan struct{}), order: make(chan kill, 1)}
	if r.task, err = l.box.Start(setup); err != nil {
		c.out.ended()
		return nil, &startError{reason: "StartError", ran: true, err: err}
	}
	c.setRun(r)
	if spec.Stdin {
		c.out.attachTo(r.task.Input(), spec.StdinOnce)
	}
	c.w.event(v1.EventTypeNormal, "Started", c.rec.name, "Started container %s", c.rec.name)
	if err := c.postStart(l, r, spec); err != nil {
		c.w.event(v1.EventTypeWarning, "FailedPostStartHook", c.rec.name, "PostStartHook failed: %v", err)
		c.kill(kill{message: "FailedPostStartHook", grace: c.w.grace()})
	}
	c.w.change(func() {
		c.rec.runs(id, img.ID, began)
		if spec.StartupProbe == nil {
			c.rec.started = true
			close(r.started)
			c.rec.ready = spec.ReadinessProbe == nil
		}
	})
	return r, nil
}

func imageError(reference string, err error) error {
	if errors.Is(err, errImageName) {
		return &startError{reason: "InvalidImageName", err: fmt.Errorf("failed to apply default image tag %q: %w", reference, err)}
	}
	return &startError{reason: "ImagePullBackOff", err: fmt.Errorf("back-off pulling image %q: %w", reference, err)}
}

func newID() string {
	id := make([]byte, 32)
	_, _ = rand.Read(id) // never fails
	return "svcproxy://" + hex.EncodeToString(id)
}

// setup computes what the container is started with, from its spec and its image's defaults.
func (c *container) setup(spec *v1.Container, img *imageInfo) (containerSetup, error) {
	fail := func(reason string, err error) (containerSetup, error) {
		return containerSetup{}, &startError{reason: reason, err: err}
	}
	src := c.w.source()
	own, err := src.environment(spec)
	if err != nil {
		return fail("CreateContainerConfigError", err)
	}
	who, home, err := profile(src.pod, spec, img)
	if err != nil {
		return fail("CreateContainerConfigError", err)
	}
	for _, id := range append([]int{who.UID, who.GID}, who.Groups...) {
		if err := c.w.k.machine.CheckUser(int64(id)); err != nil {
			return fail("CreateContainerConfigError", fmt.Errorf("user or group of image %s: %w", spec.Image, err))
		}
	}
	args := command(spec, img, own)
	if len(args) == 0 {
		return fail("CreateContainerError", errors.New("no command specified, neither by the container nor by its image"))
	}
	mounts, err := c.w.volumes.mounts(src, spec, own, c.w.etc())
	if err != nil {
		return fail("CreateContainerConfigError", err)
	}
	mounts, upper, err := c.folders(spec, mounts)
	if err != nil {
		return fail("CreateContainerError", err)
	}
	group, err := c.w.makeGroup(spec)
	if err != nil {
		return fail("CreateContainerError", err)
	}
	dir := spec.WorkingDir
	if dir == "" {
		dir = img.WorkingDir
	}
	if dir == "" {
		dir = "/"
	}
	return containerSetup{
		Name: spec.Name, Layers: img.Layers, Upper: upper, Mounts: mounts, Group: group,
		ReadOnlyRoot: spec.SecurityContext != nil && isTrue(spec.SecurityContext.ReadOnlyRootFilesystem),
		Args:         args, Env: wholeEnvironment(img.Env, own, hostname(src.pod), home, spec.TTY), Dir: dir, Profile: who,
		Terminal: spec.TTY, Stdin: spec.Stdin, Stdout: c.out.stream("stdout"), Stderr: c.out.stream("stderr"),
	}, nil
}

// command is entrypoint and arguments; the spec's command replaces both of the image.
func command(spec *v1.Container, img *imageInfo, env []string) []string {
	lookup := func(name string) (string, bool) {
		for _, e := range env {
			if value, ok := strings.CutPrefix(e, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
	entry, args := spec.Command, spec.Args
	if len(entry) == 0 {
		entry = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	out := slices.Concat(entry, args)
	for i := range out {
		if len(spec.Command) > 0 && i < len(entry) || len(spec.Args) > 0 && i >= len(entry) {
			out[i] = expand(out[i], lookup)
		}
	}
	return out
}

// wholeEnvironment is the image's variables and the pod's, and those that every container has.
func wholeEnvironment(image, own []string, host, home string, terminal bool) []string {
	values := map[string]string{"PATH": defaultPath, "HOSTNAME": host}
	if home != "" {
		values["HOME"] = home
	}
	if terminal {
		values["TERM"] = "xterm"
	}
	for _, list := range [][]string{image, own} {
		for _, e := range list {
			name, value, _ := strings.Cut(e, "=")
			values[name] = value
		}
	}
	out := make([]string, 0, len(values))
	for _, name := range sortedKeys(values) {
		out = append(out, name+"="+values[name])
	}
	return out
}

// folders makes what a run writes to: the upper layer of its root, without what the last run left, and the file for
// its last words.
func (c *container) folders(spec *v1.Container, mounts []mount) ([]mount, string, error) {
	dir := c.w.containerDir(spec.Name)
	upper := filepath.Join(dir, "root")
	if err := os.RemoveAll(upper); err != nil {
		return nil, "", err
	}
	if err := os.MkdirAll(upper, 0o711); err != nil {
		return nil, "", err
	}
	target := spec.TerminationMessagePath
	if target == "" {
		target = v1.TerminationMessagePathDefault
	}
	file := c.w.terminationFile(spec.Name)
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		return nil, "", err
	}
	if err := errors.Join(os.Chmod(file, 0o666), c.w.k.machine.Own(file, 0, 0)); err != nil {
		return nil, "", err
	}
	return append(mounts, mount{Source: file, Target: target}), upper, nil
}

// postStart runs the hook; the container counts as running only after it.
func (c *container) postStart(l *life, r *run, spec *v1.Container) error {
	if spec.Lifecycle == nil || spec.Lifecycle.PostStart == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	go func() {
		select {
		case <-r.task.Done():
		case <-l.stop:
		case <-ctx.Done():
		}
		cancel()
	}()
	return c.hook(ctx, r, spec.Lifecycle.PostStart)
}
