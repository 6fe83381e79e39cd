package coredns

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"svcproxy/proxier/local"
)

// startControllers starts what tells the API server of the pods: the kubelet's reports of their status, and the
// EndpointSlice controller. They stop when the test ends.
func (c *cluster) startControllers() {
	ctx, stop := context.WithCancel(context.WithoutCancel(c.Context()))
	var ended sync.WaitGroup
	ended.Go(func() {
		again := time.NewTicker(time.Second) // also what has failed
		defer again.Stop()
		var last error
		for {
			select {
			case <-c.changed:
			case <-again.C:
				if last == nil {
					continue
				}
			case <-ctx.Done():
				if last != nil {
					c.Errorf("controllers: %v", last)
				}
				return
			}
			if err := c.publish(ctx); ctx.Err() == nil {
				last = err
			}
		}
	})
	c.Cleanup(func() {
		stop()
		ended.Wait()
	})
}

// tellControllers makes the controllers look once more.
func (c *cluster) tellControllers() {
	select {
	case c.changed <- struct{}{}:
	default: // they are told already
	}
}

// publish makes the API server have what the pods are now.
func (c *cluster) publish(ctx context.Context) error {
	pods := c.kubelet.Pods()
	var errs []error
	for _, pod := range pods {
		errs = append(errs, c.publishStatus(ctx, pod))
	}
	services, err := c.Client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for i := range services.Items {
		errs = append(errs, c.publishSlices(ctx, &services.Items[i], pods))
	}
	return errors.Join(errs...)
}

func (c *cluster) publishStatus(ctx context.Context, pod *corev1.Pod) error {
	pod.ResourceVersion = "" // whatever the pod is there, this is its status
	_, err := c.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil // its deletion is not far
	}
	if err != nil {
		return fmt.Errorf("status of pod %s: %w", nameOf(pod), err)
	}
	return nil
}

// publishSlices writes those of a Service with a selector that are not there as they should be.
func (c *cluster) publishSlices(ctx context.Context, service *corev1.Service, pods []*corev1.Pod) error {
	if len(service.Spec.Selector) == 0 {
		return nil
	}
	client := c.Client.DiscoveryV1().EndpointSlices(service.Namespace)
	list, err := client.List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service.Name})
	if err != nil {
		return err
	}
	there := map[string]*discoveryv1.EndpointSlice{}
	for i := range list.Items {
		there[list.Items[i].Name] = &list.Items[i]
	}
	var errs []error
	for _, s := range local.Slices(service, pods, c.worker.Name) {
		old := there[s.Name]
		delete(there, s.Name)
		switch {
		case old == nil:
			_, err = client.Create(ctx, s, metav1.CreateOptions{})
		case !equality.Semantic.DeepEqual(old.Endpoints, s.Endpoints) || !equality.Semantic.DeepEqual(old.Ports, s.Ports):
			_, err = client.Update(ctx, s, metav1.UpdateOptions{})
		}
		errs = append(errs, err)
	}
	for name := range there {
		errs = append(errs, client.Delete(ctx, name, metav1.DeleteOptions{}))
	}
	return errors.Join(errs...)
}
