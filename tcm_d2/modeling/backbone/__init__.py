"""Image networks: registered with Detectron2, so that MODEL.BACKBONE.NAME chooses one."""
