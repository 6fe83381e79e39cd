package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"svcproxy/proxier/local"
)

// Apply brings the objects of manifests into the cluster, all or none. With create, those that exist are an
// error. Objects that the manifests don't hold stay as they are.
func (c *Client) Apply(ctx context.Context, m *local.Manifests, create bool) ([]Change, error) {
	var changes []Change
	_, err := c.ask(ctx, methodApply, applyRequest{Manifests: m, Create: create}, &changes)
	return changes, err
}

// Load reads manifest files and folders, "-" for standard input; everything that is wrong is one error.
func Load(paths []string) (*local.Manifests, error) { return local.Load(paths) }

// Wait waits until the pods are ready, or have succeeded, and fails as soon as one has failed.
func (c *Client) Wait(ctx context.Context, pods []Ref, timeout time.Duration) error {
	_, err := c.ask(ctx, methodWait, waitRequest{Pods: pods, Timeout: timeout}, nil)
	return err
}

// Get returns objects with apiVersion and kind, as JSON.
func (c *Client) Get(ctx context.Context, s Selection) ([]json.RawMessage, error) {
	var found objects
	_, err := c.ask(ctx, methodGet, s, &found)
	return found.Objects, err
}

// Delete removes objects and waits until they are gone.
func (c *Client) Delete(ctx context.Context, refs []Ref) ([]Change, error) {
	var changes []Change
	_, err := c.ask(ctx, methodDelete, Selection{Refs: refs}, &changes)
	return changes, err
}

// SetLimits changes the limits of a container that runs.
func (c *Client) SetLimits(ctx context.Context, pod Ref, container string, l Limits) error {
	_, err := c.ask(ctx, methodSet, setRequest{Pod: pod, Container: container, Limits: l}, nil)
	return err
}

// Restart restarts pods, one after the other: each is ready again before the next is taken out. Of a Service it
// restarts the pods behind it. tell is called for each that is ready again.
func (c *Client) Restart(ctx context.Context, s Selection, tell func(Change)) error {
	session, err := c.begin(ctx, methodRestart, s)
	if err != nil {
		return err
	}
	defer session.Close()
	for {
		var change Change
		_, done, err := session.next(ctx, &change)
		if err != nil || done {
			return err
		}
		tell(change)
	}
}

// Dial connects to a pod's port, or to a port of a Service at one of its pods, as port-forward does: inside the
// pod, at its loopback address. The connection is the caller's own; the supervisor has no part in it.
func (c *Client) Dial(ctx context.Context, target Ref, port string) (net.Conn, error) {
	files, err := c.ask(ctx, methodDial, dialRequest{Target: target, Port: port}, nil)
	defer closeAll(files)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		return nil, errors.New("the supervisor sent no connection")
	}
	conn, err := net.FileConn(files[0])
	if err != nil {
		return nil, fmt.Errorf("connection to %s: %w", target, err)
	}
	return conn, nil
}

// Forward listens in this process's network namespace and leads each connection to a port inside the pod, until ctx
// ends. listening is told of each address, failed of each connection that could not be led there.
func (c *Client) Forward(ctx context.Context, target Ref, forwards []Forward, listening func(local, remote string), failed func(error)) error {
	if _, err := c.Get(ctx, Selection{Refs: []Ref{target}}); err != nil {
		return err
	}
	dial := func(ctx context.Context, port string) (net.Conn, error) { return c.Dial(ctx, target, port) }
	return forward(ctx, forwards, dial, listening, failed)
}

// LoadRefs names the objects of manifest files and folders.
func LoadRefs(paths []string) ([]Ref, error) {
	m, err := local.Load(paths)
	if err != nil {
		return nil, err
	}
	var refs []Ref
	for _, o := range m.Objects() {
		if _, known := kinds[refOf(o).Kind]; known {
			refs = append(refs, refOf(o))
		}
	}
	return refs, nil
}
